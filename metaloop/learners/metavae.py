"""Meta-Amortized Variational Inference and Learning (MetaVAE)
Choi, Wu, Goodman & Ermon, AAAI 2020, arXiv:1902.01950

Many distributions p_i have a latent z each, of one kind. Inference is amortised twice, over the x of a distribution and
over distributions, which are told by a few draws D:

    p_i(x)   = integral of p(z) p_i(x|z),    p(z) = N(0, I)        a decoder for each p_i of meta-training   (1)
    s(D)     = mean over x in D of summary(x)                                                                (2)
    q(z|x,D) = N(encoder(x, s(D)))                                 one encoder for all                       (3)
    log p_i(x) >= E[log p_i(x|z)] - KL(q(z|x,D) | p(z))            maximised over D and x of p_i, and i      (4)
    f(x)     = the mean of q(z|x,D)                                                                          (5)

A distribution that no decoder knows needs none: f is what a network sees in its x. Without (2) it is one encoder with a
decoder for each distribution, which is what (2) has to be better than.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn import Bernoulli, Gaussian
from ..torch_private import pytree

Net = Callable[[Params, Tensor], Tensor]
Part = tuple[Net, Callable[[int], Params]]  # (net, init), as `functional` gives them


@predictor
class Inferred:
    """q(z|., D): what stands behind each x of a distribution."""

    encoder_theta: Params
    s: Float[Tensor, " c"]
    encoder: Net = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n z"]:
        return self.posterior(x).mean                                                          # (5)

    def posterior(self, x: Float[Tensor, "n ..."]) -> Gaussian:
        given = torch.cat([x.flatten(1), self.s.expand(len(x), -1)], 1)
        return Gaussian.of(self.encoder(self.encoder_theta, given))                            # (3)


@predictor
class Unseen:
    """x itself, as a row of numbers: what f has to be better than."""

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n all"]:
        return x.flatten(1)


def metavae(
    summary: Part | None, encoder: Part, decoder: Part, *, distributions: int, likelihood: type = Bernoulli,
    divisor: float | None = None, raw: bool = False,
) -> Learner[dict[str, Params]]:  # fmt: skip
    """MetaVAE: theta = {"summary", "encoder", "decoders"}, the last of which holds `distributions` decoders, stacked.

    summary x -> c (None: no summary), encoder |x| + c -> 2 z, decoder z -> what likelihood.of takes: `nn.Bernoulli`
    logits shaped like x in [0, 1], `nn.Gaussian` 2 |x| numbers. S is D; its y, int64, says which p_i it is of, the same
    for all of it, and is read in meta-training alone. The y of Q is not read.
    divisor: of the sum in (2), where that is not |D|: the authors' code divides by the size of a batch. raw: f(x) is x,
        which a probe of f should be held against. Raises ValueError unless there is a distribution.
    """
    if distributions < 1:
        raise ValueError(f"metavae: distributions={distributions}, expected at least 1.")
    parts = {"encoder": encoder} if summary is None else {"summary": summary, "encoder": encoder}

    def start(seed: int) -> dict[str, Params]:
        theta = {name: init(2 * seed + i) for i, (name, (_, init)) in enumerate(parts.items())}
        each = [decoder[1](distributions * seed + i) for i in range(distributions)]
        return {**theta, "decoders": {n: torch.stack([one[n] for one in each]) for n in each[0]}}

    def adapt(theta: dict[str, Params], S: Data) -> Inferred:
        if summary is None:
            return Inferred(theta["encoder"], S.x.flatten()[:0], encoder[0])
        each = summary[0](theta["summary"], S.x)
        return Inferred(theta["encoder"], each.sum(0) / (divisor or len(each)), encoder[0])    # (2)

    def objective(adapt, theta, task: Task):
        S, Q = task
        q = adapt(theta, S).posterior(Q.x)
        own = pytree.tree_map(lambda t: t.index_select(0, S.y[:1])[0], theta["decoders"])      # p_i
        log_p = likelihood.of(decoder[0](own, q.draw()).flatten(1)).log_prob(Q.x.flatten(1))
        terms = {"log_p": log_p.mean(), "kl": q.kl().mean()}
        return terms["kl"] - terms["log_p"], terms                                             # (4)

    return Learner(start, (lambda theta, S: Unseen()) if raw else adapt, objective, differentiates=False)
