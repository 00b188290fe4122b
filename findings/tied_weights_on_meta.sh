#!/bin/sh
# torch 2.13.0: an ensemble by `stack_module_state` is called through a copy of one model on the meta device, as its
# documentation has it. Moving to meta parts weights that were one. The state holds the tied weight once, so the copy's
# other one stays on meta, and a product with it is no error: the answer is on the CPU, of the right shape, and memory
# that nobody filled. Called through a copy that was not moved, the same state answers right.
# guess (missed): a tensor without numbers in a product with one that has them is refused.
# seen: not moved: right for 2 of 2 models; on meta: right for 0 of 2, device cpu, no error; tied after the move: False
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
from copy import deepcopy

import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap


class Tied(nn.Module):
    """Decodes by the weights by which it encodes."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(self.encode(x))


torch.manual_seed(0)
models, x = [Tied(), Tied()], torch.ones(1, 4)
state, _ = stack_module_state(models)
want = torch.stack([model(x) for model in models])
right = {}
for name, one in (("not moved", deepcopy(models[0])), ("on meta", deepcopy(models[0]).to("meta"))):
    got = vmap(lambda p, one=one: functional_call(one, (p,), (x,)))(state)
    right[name] = sum(torch.allclose(a, b) for a, b in zip(got, want))
    print(f"{name}: right for {right[name]} of 2, device {got.device}, tied: {one.decode.weight is one.encode.weight}")
    assert got.device.type == "cpu"
    assert got.shape == want.shape
assert right == {"not moved": 2, "on meta": 0}
END
