#!/bin/sh
# torch 2.13.0: the second derivative of cdist exists or not by the number of rows: where neither set has more than 25
# it raises, from 26 on it is right (another formula is taken there). In 2.14.1 it is right for all.
# guess (missed): a function has a second derivative or has none; what held on 100 points holds on 10.
# seen: 25 rows: NotImplementedError, the derivative for '_cdist_backward' is not implemented; 26 rows: error 9e-10
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import torch
from torch.func import grad

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
centres = torch.randn(25, 3)
loss = lambda x: torch.cdist(x, centres).sin().sum()
for rows in (25, 26):
    x, e = torch.randn(rows, 3), 1e-5
    want = (grad(loss)(x + e) - grad(loss)(x - e)) / (2 * e)
    try:
        got = torch.autograd.functional.hvp(loss, x, torch.ones_like(x))[1]
        told = f"error {((got - want).abs().max() / want.abs().max()).item():.0e}"
    except NotImplementedError as error:
        told = str(error)
    print(f"{rows} rows: {told}")
    assert ("not implemented" in told) == (rows == 25)
    assert rows == 25 or float(told.split()[1]) < 1e-7
END
