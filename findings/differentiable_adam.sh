#!/bin/sh
# torch 2.13.0: Adam and AdamW with differentiable=True step through a parameter whose gradient is exactly zero without
# a complaint, and the derivative through that step is NaN: for the parameter's start, and for the learning rate, which
# is shared by all. One dead ReLU or one token that the support set lacks is enough.
# guess (missed): an option made for differentiating puts eps where the derivative of the root is finite.
# seen: all gradients positive: d/dw [0.396, 1.596], d/dlr -2.37; one of them zero: d/dw [0.396, nan], d/dlr nan; the
#       losses are finite in both
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import torch

torch.set_default_dtype(torch.float64)


def through_two_steps(optimizer, x):
    w, lr = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor(0.1, requires_grad=True)
    p = w.clone()
    opt = optimizer([p], lr=lr, differentiable=True)
    for _ in range(2):
        (p.grad,) = torch.autograd.grad((p * x - 1.5).square().sum(), p, create_graph=True)
        opt.step()
    loss = (p - 1).square().sum()
    return loss, *torch.autograd.grad(loss, (w, lr))


for optimizer in (torch.optim.Adam, torch.optim.AdamW):
    for x in (torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0])):
        loss, w, lr = through_two_steps(optimizer, x)
        print(f"{optimizer.__name__}, x = {x.tolist()}: loss {loss:.3f}, d/dw {w.tolist()}, d/dlr {lr:.3f}")
        assert loss.isfinite()
        assert w.isfinite().tolist() == (x != 0).tolist()
        assert lr.isfinite() == (x != 0).all()
END
