#!/bin/sh
# torch 2.13.0: torch.export of a module that says len(x) where another says x.shape[0] makes the batch a constant and
# refuses a dynamic one.
# guess (missed): len of a tensor is its first size, and traced as such.
# seen: x.shape[0] exports and answers 7; len(x) raises "specialized it to be a constant (3)".
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import torch
from torch.export import Dim, export


class Size(torch.nn.Module):
    def forward(self, x):
        return x.reshape(x.shape[0], -1).sum(1)


class Length(torch.nn.Module):
    def forward(self, x):
        return x.reshape(len(x), -1).sum(1)


def exported(module):
    try:
        program = export(module, (torch.ones(3, 2, 2),), dynamic_shapes=({0: Dim("batch", min=1, max=64)},))
    except Exception as error:
        assert "constant (3)" in str(error), error
        return "a constant"
    return len(program.module()(torch.ones(7, 2, 2)))


told = {"shape[0]": exported(Size()), "len": exported(Length())}
print(told)
assert told == {"shape[0]": 7, "len": "a constant"}
END
