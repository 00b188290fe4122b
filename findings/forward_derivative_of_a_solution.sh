#!/bin/sh
# torch 2.13.0: differentiating a forward-mode derivative again, by grad or by jvp, is silently wrong through logdet,
# det and linalg.solve (their forward formulas hold the factorisation for a constant), and through layer, batch and
# instance norm. The second derivative of log det(A + tB) is -tr((A^-1 B)^2); grad(jvp) answers exactly 0. For solve it
# answers half. jvp(grad), grad(grad) and torch.func.hessian are right, and so are cholesky, inv and lu_solve in either
# order.
# guess (missed): modes nest in any order; grad of a jvp is the cheap Hessian-vector product and equals jvp of grad.
# seen: logdet -4.17275: grad(jvp) 0.00000, jvp(grad) -4.17275; solve -5.34909: -2.67454, -5.34909; layer norm 7.25126:
#       6.93563, 7.25126; by cholesky -4.17275: -4.17275, -4.17275
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import torch
import torch.nn.functional as F
from torch.func import grad, jvp

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)
A, B, b = torch.randn(4, 4), torch.randn(4, 4), torch.randn(4)
A, B, t = A @ A.T + torch.eye(4), B + B.T, torch.tensor(0.3)
forward = lambda f: lambda t: jvp(f, (t,), (torch.ones_like(t),))[1]
FUNCTIONS = {  # and what grad(jvp) answers, as a part of the truth
    "logdet": (lambda t: torch.logdet(A + t * B), 0.0),
    "solve": (lambda t: torch.linalg.solve(A + t * B, b).sum(), 0.5),
    "layer norm": (lambda t: F.layer_norm(A + t * B, (4,), b, b).pow(3).sum(), None),
    "by cholesky": (lambda t: 2 * torch.linalg.cholesky(A + t * B).diagonal().log().sum(), 1.0),
}
for name, (f, part) in FUNCTIONS.items():
    e = 1e-4
    want = (f(t + e) - 2 * f(t) + f(t - e)) / e**2
    of_forward, of_grad, twice = (g(t) for g in (grad(forward(f)), forward(grad(f)), grad(grad(f))))
    print(f"{name} {want:.5f}: grad(jvp) {of_forward:.5f}, jvp(grad) {of_grad:.5f}")
    assert torch.allclose(of_grad, want, rtol=1e-4)
    assert torch.allclose(twice, want, rtol=1e-4)
    if part is None:
        assert abs(of_forward / want - 1) > 0.01
    else:
        assert torch.allclose(of_forward, part * twice, atol=1e-10)
END
