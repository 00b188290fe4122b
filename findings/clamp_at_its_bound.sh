#!/bin/sh
# torch 2.14.1: the derivative of clamp by numbers is 0 at its bounds, where it was 1 up to 2.13.0; with tensors as bounds
# it is 1/2, where it was 1. A learned rate that is kept from falling below zero and starts there learned until 2.13 and
# stands still since; so does every pixel of a picture of two colours that is learned under clamp(0, 1).
# guess (missed): a release does not change a derivative; at a bound clamp lets it through, as the source had said.
# seen: 2.13.0: numbers 1, tensors 1, rate after 20 steps 0.182, pixels with a slope 100 %; 2.14.1: 0, 1/2, 0, 0 %.
# Installs both; on Linux the second one brings CUDA along, some 5 GB.
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
cat >"$there/look.py" <<'END'
import sys

import torch


def slope(f, x):
    x = torch.tensor(x, requires_grad=True)
    f(x).sum().backward()
    return x.grad.tolist()


bounds = torch.tensor(0.0), torch.tensor(1.0)
numbers = slope(lambda x: x.clamp(0, 1), [0.0, 0.5, 1.0, 2.0])
tensors = slope(lambda x: x.clamp(*bounds), [0.0, 0.5, 1.0, 2.0])
assert slope(lambda x: x.clamp(min=0), [0.0]) == slope(lambda x: x.clamp_min(0), [0.0]) == numbers[:1]

# phi = 1 - rate * slope of phi^2 / 2; the rate is learned by descent on phi^2 / 2, and starts where a rate must not fall
# below. By hand: d/d rate = -(1 - rate), so a hundredth of it a step takes the rate to 1 - 0.99^20 = 0.182.
rate = torch.zeros((), requires_grad=True)
for _ in range(20):
    phi = 1 - rate.clamp(min=0) * 1.0
    (g,) = torch.autograd.grad(phi.square() / 2, rate)
    rate = (rate - 0.01 * g).detach().requires_grad_()

picture = (torch.rand(28, 28, generator=torch.Generator().manual_seed(0)) > 0.8).float().requires_grad_()
weights = torch.randn(784, 5, generator=torch.Generator().manual_seed(1))
(picture.clamp(0, 1).flatten() @ weights).logsumexp(0).backward()
moved = (picture.grad != 0).float().mean().item()

told = {"numbers": numbers, "tensors": tensors, "rate": round(rate.item(), 3), "moved": moved}
print(torch.__version__, told)
if sys.argv[1] == "before":
    assert told == {"numbers": [1, 1, 1, 0], "tensors": [1, 1, 1, 0], "rate": 0.182, "moved": 1.0}
else:
    assert told == {"numbers": [0, 1, 0, 0], "tensors": [0.5, 1, 0.5, 0], "rate": 0.0, "moved": 0.0}
END
python3 -m venv "$there/before"
"$there/before/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
"$there/before/bin/python" "$there/look.py" before
python3 -m venv "$there/since"
"$there/since/bin/pip" install -qq torch==2.14.1 numpy==2.4.6
"$there/since/bin/python" "$there/look.py" since
