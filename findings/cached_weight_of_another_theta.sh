#!/bin/sh
# torch 2.13.0: within `parametrize.cached()`, which spares a recurrent network to compute its weight at each step, a
# module called by `functional_call` keeps the weight of the first parameters that it was given: the second call has the
# first's weight and its own bias. So in an inner loop each step would be taken at the weights of the first.
# guess (missed): what is cached belongs to the parameters it was made of.
# seen: error of the second call outside of cached(): 0; within: 0.98, and the answer is first weight, second bias
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
from contextlib import nullcontext

import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

torch.manual_seed(0)
layer, x = weight_norm(nn.Linear(3, 3)), torch.ones(1, 3)
theta = {name: p.detach().clone() for name, p in layer.named_parameters()}
phi = {name: 3 * p for name, p in theta.items()}
g, v = (phi[f"parametrizations.weight.original{i}"] for i in (0, 1))
want = x @ (g * v / v.norm(dim=1, keepdim=True)).T + phi["bias"]
first = functional_call(layer, theta, (x,)) - theta["bias"] + phi["bias"]
errors = {}
for name, context in (("outside", nullcontext()), ("within", parametrize.cached())):
    with context:
        functional_call(layer, theta, (x,))
        got = functional_call(layer, phi, (x,))
    errors[name] = (got - want).abs().max().item()
    print(f"{name}: error {errors[name]:.2f}; the first weight with the second bias: {torch.allclose(got, first)}")
assert errors["outside"] < 1e-6
assert errors["within"] > 0.1
assert torch.allclose(got, first)
END
