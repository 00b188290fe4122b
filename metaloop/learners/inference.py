"""Three ways to infer one hidden cause: exactly, by descent for each set, or by a network for all
Shu, Bui, Zhao, Kochenderfer & Ermon, Amortized Inference Regularization, NeurIPS 2018, arXiv:1805.08913

A set D of n examples x of R^d has a hidden cause c of R^k; everything is Gaussian, so that each way can be judged:

    p(c)      = N(0, I),    p(x|c) = N(W c + b, s2 I)                                               (1)
    exact       L = I + n W'W / s2,    q(c|D) = N(L^-1 n W'(xbar - b) / s2, L^-1),   xbar = mean of D   (2)
    descent     q(c|D) = N(m, diag v) of the largest (5), by K steps on (m, ln v) from the prior    (3)
    amortised   q(c|D) = N(encoder(xbar, 1/n)),  diagonal, one encoder for all sets                 (4)
    ELBO(q)   = sum over D of E_q ln p(x|c) - KL(q | p(c))   <=  ln p(D)                            (5)
    f(x)_k    = ln p(x|D_k) = ln N(x; W m + b, W V W' + s2 I),   V the covariance of q(c|D_k)       (6)

D_k are the support examples labelled k. ln p(D) - ELBO of (3) is the approximation gap, 1/2 (sum_i ln L_ii - ln det L)
for every D of one size: v_i = 1 / L_ii, narrower than (L^-1)_ii. ELBO of (3) less that of (4): the gap of amortisation.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.func import grad

from ..core import Data, Learner, Task, Theta, predictor
from ..nn import Gaussian, adam
from ..nn.classes import of_sets
from ..nn.unit import wide
from .neural_statistician import Part


@predictor
class Densities:
    """ln p(x|D_k), a Gaussian for each set."""

    mean: Float[Tensor, "ways d"]
    scale: Float[Tensor, "ways d d"]  # lower triangular, scale scale' = the covariance
    present: Bool[Tensor, " ways"]  # a class without examples is never chosen

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n ways"]:
        return torch.where(self.present, self.log_prob(x), -torch.inf)

    def log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n ways"]:
        """ln p(x|D_k), in nats an example."""
        away = torch.linalg.solve_triangular(self.scale, (x - self.mean[:, None]).mT, upper=False)
        half = self.scale.diagonal(dim1=-2, dim2=-1).log().sum(-1) + math.log(2 * math.pi) * x.shape[1] / 2
        return -away.square().sum(1).T / 2 - half                                           # (6)

    def sample(self, n: int) -> Float[Tensor, "n ways d"]:
        """n draws from each p(x|D_k)."""
        return self.mean + (self.scale @ torch.randn_like(self.mean.expand(n, -1, -1))[..., None])[..., 0]


def inference(
    dim: int, causes: int, *, ways: int, infer: str = "exact", encoder: Part | None = None, inner_lr: float = 0.05,
    inner_steps: int = 300,
) -> Learner[Theta]:  # fmt: skip
    """A density of x of R^`dim` from a few draws, by a Gaussian cause of R^`causes`; a classifier by densities.

    theta = {"W", "b", "log_s2"} and, amortised, "encoder". infer: "exact" (2), "descent" (3), by inner_steps steps of
    Adam (beta2 = 0.9) at inner_lr, falling to 0 over the second half, or "amortised" (4), whose encoder (net, init)
    takes dim + 1 numbers to 2 `causes`. Raises ValueError for another word, an encoder that is missing or has no use,
    or sizes below 1.
    """
    if infer not in ("exact", "descent", "amortised"):
        raise ValueError(f"inference: infer is {infer!r}, expected 'exact', 'descent' or 'amortised'.")
    if (encoder is not None) != (infer == "amortised"):
        raise ValueError(f"inference: infer={infer!r} {'has no use for an' if encoder else 'needs an'} encoder.")
    if min(dim, causes) < 1:
        raise ValueError(f"inference: dim is {dim}, causes {causes}, expected at least 1 of each.")
    method = adam(beta2=0.9)  # 0.999 would remember the first gradients, which are the largest, to the end

    def init(seed: int) -> Theta:
        W = torch.randn(dim, causes, generator=torch.Generator().manual_seed(seed)) / causes**0.5
        theta = {"W": W, "b": torch.zeros(dim), "log_s2": torch.zeros(())}
        return theta if encoder is None else theta | {"encoder": encoder[1](seed)}

    def statistics(S: Data) -> tuple[Tensor, Tensor, Tensor]:
        """Of each set its mean, its size, and the sum of squares about its mean."""
        member = of_sets(S.y, ways, S.x)
        n = member.sum(0)
        mean = member.mT @ S.x / n.clamp_min(1)[:, None]
        return mean, n, member.mT @ (S.x - member @ mean).square().sum(1)

    def bound(theta: Theta, m: Tensor, V: Tensor, mean: Tensor, n: Tensor, spread: Tensor) -> Tensor:
        """(5) of each set."""
        s2, W = theta["log_s2"].exp(), theta["W"]
        away = (mean - theta["b"] - m @ W.mT).square().sum(1) + ((W @ V) * W).sum((1, 2))
        log_p = -(spread + n * away) / s2 - n * dim * (theta["log_s2"] + math.log(2 * math.pi))
        kl = V.diagonal(dim1=1, dim2=2).sum(1) + m.square().sum(1) - causes - torch.linalg.slogdet(V)[1]
        return (log_p - kl) / 2

    def posterior(theta: Theta, mean: Tensor, n: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
        """m [ways, k] and V [ways, k, k] of q(c|D_k)."""
        s2, W, eye = theta["log_s2"].exp(), theta["W"], torch.eye(causes, dtype=mean.dtype, device=mean.device)
        if infer == "exact":
            V = torch.linalg.inv(eye + n[:, None, None] * (W.mT @ W) / s2)
            seen = (mean - theta["b"]) @ W * n[:, None] / s2
            return (V @ seen[..., None])[..., 0], V                                         # (2)
        if encoder is not None:
            seen = torch.cat([mean, 1 / n.clamp_min(1)[:, None]], 1)
            q = Gaussian.of(encoder[0](theta["encoder"], seen))                             # (4)
            return q.mean, torch.diag_embed(q.logvar.exp())
        state = method.init(phi := {name: mean.new_zeros(ways, causes) for name in ("m", "log_v")})
        cost = lambda phi: -bound(theta, phi["m"], torch.diag_embed(phi["log_v"].exp()), mean, n, spread).sum()
        for k in range(inner_steps):
            phi, state = method.update(inner_lr * min(1, 2 - 2 * k / inner_steps), grad(cost)(phi), phi, state)  # (3)
        return phi["m"], torch.diag_embed(phi["log_v"].exp())

    def adapt(theta: Theta, S: Data) -> Densities:
        m, V = posterior(theta, *(seen := statistics(S)))
        W, V, log_s2 = (wide(t) for t in (theta["W"], V, theta["log_s2"]))  # float32 loses a small s2 beside W V W'
        scale = torch.linalg.cholesky(W @ V @ W.mT + log_s2.exp() * torch.eye(dim, dtype=W.dtype, device=W.device))
        return Densities(m @ theta["W"].mT + theta["b"], scale.to(m.dtype).to(m.device), seen[1] > 0)

    def objective(adapt, theta: Theta, task: Task):
        seen = statistics(task.support)
        nats = torch.where(seen[1] > 0, bound(theta, *posterior(theta, *seen), *seen), 0.0).sum() / (seen[1] > 0).sum()
        return -nats, {"elbo": nats}

    return Learner(init, adapt, objective, differentiates=infer == "descent")
