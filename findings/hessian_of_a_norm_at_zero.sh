#!/bin/sh
# torch 2.13.0: torch.func.hessian of |x|^2, written as vector_norm(x)**2, is exactly zero at x = 0, where it is 2 I;
# reverse mode twice gives NaN there. The finite answer is the dangerous one: no check for NaN finds it. The same for
# sqrt(1 + |x|^2), whose Hessian at 0 is I, and a cosine similarity of an embedding of zero.
# guess (missed): both are NaN, or both are 2 I.
# seen: |x|^2: hessian [[0, 0], [0, 0]], jacrev(jacrev) NaN; sqrt(1 + |x|^2): the same; x.square().sum(): 2 I by both
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import torch
from torch.func import hessian, jacrev

zero = torch.zeros(2, dtype=torch.float64)
FUNCTIONS = {
    "vector_norm(x)**2": lambda x: torch.linalg.vector_norm(x) ** 2,
    "sqrt(1 + vector_norm(x)**2)": lambda x: (1 + torch.linalg.vector_norm(x) ** 2).sqrt(),
    "x.square().sum()": lambda x: x.square().sum(),
}
for name, f in FUNCTIONS.items():
    forward, reverse = hessian(f)(zero), jacrev(jacrev(f))(zero)
    print(f"{name}: hessian {forward.tolist()}, jacrev(jacrev) {reverse.tolist()}")
    if "norm" in name:
        assert (forward == 0).all()
        assert reverse.isnan().all()
    else:
        assert (forward == reverse).all()
        assert (forward == 2 * torch.eye(2)).all()
END
