#!/bin/sh
# torch 2.13.0: log_prob of LowRankMultivariateNormal is the difference of two squared lengths, each of the size of the
# data over the noise. In float32 little is left of it where the noise is small: at 784 numbers, 20 factors and a noise
# of 1/255, the step of a pixel, the answer is a hundred nats off, and some draws come out denser than the mode.
# guess (missed): the class made for such covariances is as exact as float32 allows: a few hundredths of a nat.
# seen: 127 nats off in the mean over 1000 of its own samples, whose densities spread by 19; 1.3 % of them above the
# mode; the same lemma written with the residual is .002 off
set -eu
there=$(mktemp -d)
trap 'rm -rf "$there"' EXIT
python3 -m venv "$there/env"
"$there/env/bin/pip" install -qq torch==2.13.0
"$there/env/bin/pip" install -qq torch==2.13.0 numpy==2.4.6
cd "$there"
env/bin/python - <<'END'
import math

import torch
from torch.distributions import LowRankMultivariateNormal

n, factors, variance = 784, 20, 255.0**-2
torch.manual_seed(0)
W, zero, noise = torch.randn(n, factors), torch.zeros(n), torch.full((n,), variance)
normal = LowRankMultivariateNormal(zero, W, noise)
x = normal.sample((1000,))
answer = normal.log_prob(x)
exact = LowRankMultivariateNormal(zero.double(), W.double(), noise.double()).log_prob(x.double())

# the same lemma, by what the factors leave over: |x - Wz|^2 / variance + |z|^2, z the factors' posterior mean
chol = torch.linalg.cholesky(torch.eye(factors) + W.T @ W / variance)
z = torch.cholesky_solve(W.T @ x.T / variance, chol).T
squares = (x - z @ W.T).square().sum(1) / variance + z.square().sum(1)
residual = -(squares + n * math.log(2 * math.pi * variance) + 2 * chol.diagonal().log().sum()) / 2

far = lambda a: (a - exact).abs().mean().item()
above = (answer > normal.log_prob(zero)).float().mean().item()
print(f"nats off in the mean of 1000 samples: log_prob {far(answer):.1f}, residual {far(residual):.4f}")
print(f"samples above the mode: {above:.1%}; deviation of the exact densities {exact.std():.1f}")
assert far(answer) > 30
assert above > 0
assert far(residual) < 0.1
END
