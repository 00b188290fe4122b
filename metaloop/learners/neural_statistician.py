"""Towards a Neural Statistician
Edwards & Storkey, ICLR 2017, arXiv:1606.02185

A set of examples D has a statistic c, each of its examples x a latent z:

    p(D)       = integral of p(c) prod over x of p(x|z,c) p(z|c),    p(c) = N(0, I)               (1)
    q(c|D)     = N(statistic(mean over x of encoder(x), 1/|D|))                                   (2)
    q(z|x,c)   = N(posterior(encoder(x), c)),    p(z|c) = N(prior(c))                             (3)
    log p(D)  >= sum over x of E[log p(x|z,c) - KL(q(z|x,c) | p(z|c))] - KL(q(c|D) | p(c))        (4)
    f(x)_k     = -KL(q(c|D_k) | q(c|x))                                                           (5)
    p(x|D)     = E[ p(x|z,c) p(z|c) / q(z|x,c) ],    c ~ q(c|D), z ~ q(z|x,c)                     (6)

D_k are the support examples labelled k; labels have no other use, and with ways=1 none. Training maximises (4) for
each D_k, with q(c|D) inferred from a random part of D: the paper's sample dropout.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn import Bernoulli, Gaussian, population
from ..nn.classes import of_sets, thinned

Net = Callable[[Params, Tensor], Tensor]
Part = tuple[Net, Callable[[int], Params]]  # (net, init), as `functional` gives them


@predictor
class SetDensities:
    """A density for each set D_k; as a classifier, it compares the statistics of x alone and of D_k."""

    theta: dict[str, Params]
    c: Gaussian  # q(c|D_k), k = 0 .. ways-1
    present: Bool[Tensor, " ways"]  # a class without examples is never chosen
    encoder: Net = static()
    statistic: Net = static()
    posterior: Net = static()
    prior: Net = static()
    decoder: Net = static()
    likelihood: type = static()
    by_density: bool = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        if self.by_density:
            return torch.where(self.present, self.log_prob(x), -torch.inf)
        h = self.encoder(self.theta["encoder"], x)[:, None]
        alone = Gaussian.of(self._net("statistic", h, torch.ones_like(h[..., :1])))
        return torch.where(self.present, -self.c.kl(alone), -torch.inf)                           # (5)

    def log_prob(self, x: Float[Tensor, "n ..."], draws: int = 16) -> Float[Tensor, "n ways"]:
        """log p(x|D_k) by importance sampling: too low in expectation, by less the more draws."""
        h, c = self.encoder(self.theta["encoder"], x), self.c.expand(draws, len(x)).draw()
        x, h = (t.flatten(1)[:, None].expand(*c.shape[:-1], -1) for t in (x, h))
        log_p, q_z, p_z, z = self.terms(x, h, c)
        return (log_p + p_z.log_prob(z) - q_z.log_prob(z)).logsumexp(0) - math.log(draws)         # (6)

    def sample(self, n: int) -> Float[Tensor, "n ways ..."]:
        """n draws from each p(x|D_k)."""
        c = self.c.expand(n).draw()
        return self.likelihood.of(self._net("decoder", Gaussian.of(self._net("prior", c)).draw(), c)).draw()

    def terms(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Gaussian, Gaussian, Tensor]:
        """log p(x|z,c) for z drawn from q(z|x,c), that q, p(z|c), and z; x, h and c have their features last."""
        q_z, p_z = (Gaussian.of(out) for out in (self._net("posterior", h, c), self._net("prior", c)))  # (3)
        z = q_z.draw()
        out = self._net("decoder", z, c, *((x,) if getattr(self.likelihood, "causal", False) else ()))
        return self.likelihood.of(out.flatten(c.ndim - 1)).log_prob(x), q_z, p_z, z

    def _net(self, part: str, *inputs: Tensor) -> Tensor:
        x = torch.cat(inputs, -1)
        out = getattr(self, part)(self.theta[part], x.flatten(0, -2))
        return out.view(*x.shape[:-1], *out.shape[1:])


def neural_statistician(
    encoder: Part, statistic: Part, posterior: Part, prior: Part, decoder: Part, *,
    ways: int, likelihood: type = Bernoulli, by_density: bool = False, sample_dropout: bool = True,
) -> Learner[dict[str, Params]]:  # fmt: skip
    """The Neural Statistician: theta holds five networks, f is a density for each class, and a classifier by them.

    For d features, statistics of size c, latents of size z: encoder x -> d, statistic d + 1 -> 2 c, posterior
    d + c -> 2 z, prior c -> 2 z, decoder z + c -> what likelihood.of takes: `nn.Bernoulli` logits shaped like x in
    [0, 1], `nn.Gaussian` 2 |x| numbers for x of [n, |x|]; `nn.CausalBernoulli` is given z + c + |x| (`nn.Masked`).
    by_density: f(x) is log p(x|D_k) in place of (5).
    """
    parts = {"encoder": encoder, "statistic": statistic, "posterior": posterior, "prior": prior, "decoder": decoder}
    start, infer = inference(parts, ways=ways, likelihood=likelihood, by_density=by_density)

    def objective(adapt, theta, task: Task):
        f, h, member = infer(theta, task.support, dropout=sample_dropout)
        log_p, q_z, p_z, _ = f.terms(task.support.x.flatten(1), h, member @ f.c.draw())
        terms = {"log_p": log_p, "kl_z": q_z.kl(p_z), "kl_c": torch.where(f.present, f.c.kl(), 0.0)}
        per_set = {name: term.sum() / f.present.sum() for name, term in terms.items()}
        return per_set["kl_z"] + per_set["kl_c"] - per_set["log_p"], per_set                      # (4)

    how = {"differentiates": False, "statistics": population(encoder[0], "encoder")}
    return Learner(start, lambda theta, S: infer(theta, S)[0], objective, **how)


def inference(parts: dict[str, Part], *, ways: int, likelihood: type, by_density: bool) -> tuple[Callable, Callable]:
    """The start of theta, and q(c|D_k) inferred: (theta, S) -> (f, the encodings of S, which set each one is of)."""
    nets = {name: net for name, (net, _) in parts.items()}

    def start(seed: int) -> dict[str, Params]:
        return {name: init(len(parts) * seed + i) for i, (name, (_, init)) in enumerate(parts.items())}

    def infer(theta, S: Data, *, dropout: bool = False) -> tuple[SetDensities, Tensor, Tensor]:
        h = nets["encoder"](theta["encoder"], S.x)
        member = of_sets(S.y, ways, h)
        kept = thinned(member) if dropout else member
        size = kept.sum(0)[:, None]
        pooled = torch.cat((kept.mT @ h, torch.ones_like(size)), 1) / size.clamp_min(1)
        c = Gaussian.of(nets["statistic"](theta["statistic"], pooled))                            # (2)
        return SetDensities(theta, c, size[:, 0] > 0, **nets, likelihood=likelihood, by_density=by_density), h, member

    return start, infer
