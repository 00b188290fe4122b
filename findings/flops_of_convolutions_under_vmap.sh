#!/bin/sh
# torch 2.13.0: FlopCounterMode counts the gradient by a convolution's weights once for every pair of tasks: vmap makes
# one convolution of as many groups as tasks, and the formula of the backward pass has no groups. What is computed is
# right, and the loss and linear layers are counted rightly.
# guess (missed): the same work is counted the same, in a loop or under vmap.
# seen: vmap(grad) of one convolution over a loop of grad: 1.0 times for 1 task, 3.5 for 6, 16.5 for 32; linear: 1.0
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import torch
from torch.utils.flop_counter import FlopCounterMode


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


layers = {"convolution": (torch.nn.Conv2d(3, 8, 3, padding=1), (3, 8, 8)), "linear": (torch.nn.Linear(16, 4), (16,))}
told = {}
for name, (layer, shape) in layers.items():
    theta = {k: v.detach() for k, v in layer.named_parameters()}

    def loss(theta, x):
        return torch.func.functional_call(layer, theta, x).square().mean()

    gradient = torch.func.grad(loss)
    for tasks in (1, 6, 32):
        x, each = torch.randn(tasks, 5, *shape), {k: torch.stack([v] * tasks) for k, v in theta.items()}
        forward = counted(lambda: torch.vmap(loss)(each, x)) / counted(lambda: [loss(theta, one) for one in x])
        looped = counted(lambda: [gradient(theta, one) for one in x])
        together = counted(lambda: torch.vmap(gradient)(each, x))
        told[name, tasks] = together / looped
        print(f"{name}, {tasks} tasks: loss {forward:.1f}, gradient {together / looped:.1f} times what a loop counts")
        assert forward == 1
        same = [torch.allclose(torch.vmap(gradient)(each, x)[k][0], gradient(theta, x[0])[k], atol=1e-5) for k in theta]
        assert all(same)
assert [told["linear", tasks] for tasks in (1, 6, 32)] == [1, 1, 1]
assert [told["convolution", tasks] for tasks in (1, 6, 32)] == [1, 3.5, 16.5]
END
