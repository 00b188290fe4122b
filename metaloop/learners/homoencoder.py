"""The Variational Homoencoder: Learning to Learn High Capacity Generative Models from Few Examples
Hewitt, Nye, Gane, Jaakkola & Tenenbaum, UAI 2018, arXiv:1807.08919

A class X has a statistic c, each of its examples x a latent z, as for the Neural Statistician; c is inferred from a
few examples D of the class, and explains the others:

    p(X)               = integral of p(c) prod over x of p(x|z,c) p(z|c),    p(c) = N(0, I)               (1)
    q(c|D), q(z|x,c)   = as the Neural Statistician infers them, from an encoder                          (2)
    log p(X) / |X|    >= E[log p(x|z,c) - KL(q(z|x,c) | p(z|c))] - KL(q(c|D) | p(c)) / |X|,  x in X       (3)
    f(x)_k             = -KL(q(c|D_k) | q(c|x))                                                           (4)

(3) holds for every D, so the mean over D is a bound too. c is paid for once in a class of |X|, however few of it are at
hand: what all of a class have in common is worth its price even to a decoder that does well without. The
Statistician's own bound is (3) with D = X, when the |D| examples at hand are all there is.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core import Data, Learner, Params, Task
from ..nn import Bernoulli, population
from ..nn.classes import of_sets
from .neural_statistician import Part, inference

DECODED = ("query", "support", "class")


def homoencoder(
    encoder: Part, statistic: Part, posterior: Part, prior: Part, decoder: Part, *,
    ways: int, class_size: float | None, decodes: str = "query", likelihood: type = Bernoulli,
    by_density: bool = False, sample_dropout: bool = True,
) -> Learner[dict[str, Params]]:  # fmt: skip
    """The Variational Homoencoder: the Neural Statistician's networks and its f, trained to explain a class by a part.

    D is the support set, or with sample_dropout a random part of it. class_size: |X|; None where D is all of its class.
    decodes: the x of (3): "query", examples that are not in D; "support", those that are; "class", both, each with its
    share of |X|: then the loss is an unbiased estimate of minus (3), in nats per example. Networks, likelihood and
    by_density are `neural_statistician`'s. Raises ValueError for another word, or a class_size below 1.
    """
    if decodes not in DECODED:
        raise ValueError(f"homoencoder: decodes is {decodes!r}, expected {', '.join(map(repr, DECODED))}.")
    if class_size is not None and not class_size >= 1:
        raise ValueError(f"homoencoder: class_size is {class_size}, expected at least 1: how many examples X has.")
    parts = {"encoder": encoder, "statistic": statistic, "posterior": posterior, "prior": prior, "decoder": decoder}
    start, infer = inference(parts, ways=ways, likelihood=likelihood, by_density=by_density)

    def explained(f, c: Tensor, data: Data, h: Tensor | None = None) -> Sequence[Tensor]:
        """Of each class: how many examples data has, their mean log p(x|z,c) and KL(q(z|x,c) | p(z|c))."""
        h = encoder[0](f.theta["encoder"], data.x) if h is None else h
        member = of_sets(data.y, ways, h)
        log_p, q_z, p_z, _ = f.terms(data.x.flatten(1), h, member @ c)
        n = member.sum(0)
        return n, *(member.mT @ term / n.clamp_min(1) for term in (log_p, q_z.kl(p_z)))

    def objective(adapt, theta, task: Task):
        f, h, member = infer(theta, task.support, dropout=sample_dropout)
        c, here = f.c.draw(), member.sum(0)
        size = here if class_size is None else torch.full_like(here, class_size)
        if decodes == "query":
            n, log_p, kl_z = explained(f, c, task.query)
        else:
            n, log_p, kl_z = explained(f, c, task.support, h)
        if decodes == "class":
            others, seen = explained(f, c, task.query), (here / size).clamp_max(1)
            n, log_p, kl_z = (seen * s + (1 - seen) * q for s, q in zip((n, log_p, kl_z), others, strict=True))
        there = f.present & (n > 0)
        kl_c = f.c.kl()
        bound = log_p - kl_z - kl_c / size.clamp_min(1)                                                   # (3)
        terms = {"log_p": log_p, "kl_z": kl_z, "kl_c": kl_c, "bound": bound}
        info = {name: torch.where(there, term, 0.0).sum() / there.sum() for name, term in terms.items()}
        return -info["bound"], info

    how = {"differentiates": False, "statistics": population(encoder[0], "encoder")}
    return Learner(start, lambda theta, S: infer(theta, S)[0], objective, **how)                          # (4)
