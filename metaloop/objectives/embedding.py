"""Losses of labelled embeddings: what makes a metric good when all training classes are known by name
z: an embedding, y: its class; theta_j: the angle between z and W_j, the weights of class j of C.

Softmax over the classes, with logits l; a margin asks more of the true class than to win:

    L = -log softmax_y l                                                                                    (1)
    softmax                                                       l_j = W_j z + b_j                         (2)
    NormFace    Wang et al., ACM MM 2017, arXiv:1704.06369        l_j = s cos theta_j                       (3)
    SphereFace  Liu et al., CVPR 2017, arXiv:1704.08063           l_j = |z| cos theta_j
                    l_y = |z| (lambda cos theta_y + psi(theta_y)) / (1 + lambda)                            (4)
                    psi(t) = (-1)^k cos(m t) - 2 k  for t in [k pi / m, (k + 1) pi / m]
                    lambda = max(lambda_min, lambda_0 / (1 + gamma step))
    CosFace     Wang et al., CVPR 2018, arXiv:1801.09414          l_j = s cos theta_j
    AM-Softmax  Wang et al., 2018, arXiv:1801.05599                   l_y = s (cos theta_y - m)             (5)
    ArcFace     Deng et al., CVPR 2019, arXiv:1801.07698              l_y = s cos(theta_y + m)              (6)

Departs: in (6), where theta_y + m > pi the logit is s (cos theta_y - m sin m), as in the authors' code.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, pi, sin

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import Params, Scalar
from ..nn import cosines, cross_entropy, membership
from ..nn.unit import length


@dataclass(frozen=True)
class EmbeddingLoss:
    """A loss of labelled embeddings z [n, dim], y [n], with parameters of its own.

    init: (seed) -> params. value: (params, z, y) -> scalar. scheduled: (step) -> part of params, as a Learner's.
    classes: how many y are numbered over, the same ones in every batch; None if only which are equal counts.
    """

    init: Callable[[int], Params]
    value: Callable[[Params, Tensor, Tensor], Tensor]
    scheduled: Callable[[int], Params] | None = None
    classes: int | None = None


def softmax(*, classes: int, dim: int) -> EmbeddingLoss:
    """(2): the ordinary one, with biases."""

    def init(seed: int) -> Params:
        return {**_weights(classes, dim, seed), "b": torch.zeros(classes)}

    return EmbeddingLoss(init, lambda p, z, y: cross_entropy(z @ p["W"].mT + p["b"], y), classes=classes)


def normface(*, classes: int, dim: int, scale: float = 16.0) -> EmbeddingLoss:
    """(3), with a fixed scale s. One below about log(classes) cannot tell that many apart for sure."""
    return _angular(classes, dim, lambda params, c: c, scale)


def sphereface(
    *, classes: int, dim: int, margin: int = 4, anneal: tuple[float, float, float] = (1500.0, 0.1, 5.0)
) -> EmbeddingLoss:
    """(4). anneal: lambda_0, gamma, lambda_min; from plain softmax, nearly, to the margin. (0, 0, 0) does without."""
    if margin < 1 or margin != int(margin):
        raise ValueError(f"sphereface: margin={margin!r}, expected a whole number, at least 1.")
    if len(anneal) != 3 or not min(anneal) >= 0:
        raise ValueError(f"sphereface: anneal={anneal!r}, expected lambda_0, gamma and lambda_min, none below 0.")
    first, gamma, least = map(float, anneal)

    def target(params: Params, c: Tensor) -> Tensor:
        return (params["lambda"] * c + psi(c, margin)) / (1 + params["lambda"])

    def scheduled(step: int) -> Params:
        return {"lambda": torch.tensor(max(least, first / (1 + gamma * step)))}

    return _angular(classes, dim, target, None, scheduled)                                  # (4)


def psi(c: Float[Tensor, "..."], m: int) -> Float[Tensor, "..."]:
    """(-1)^k cos(m t) - 2 k of c = cos t, t in [k pi / m, (k + 1) pi / m]: cos(m t) drawn out to fall all the way."""
    before, cos_mt = torch.ones_like(c), c
    for _ in range(m - 1):
        before, cos_mt = cos_mt, 2 * c * cos_mt - before  # Chebyshev: no derivative of acos, which has none at 0
    k = (m / pi * c.detach().clamp(-1, 1).acos()).floor().clamp_max(m - 1)
    return (1 - 2 * (k % 2)) * cos_mt - 2 * k


def cosface(*, classes: int, dim: int, margin: float = 0.35, scale: float = 16.0) -> EmbeddingLoss:
    """(5), AM-Softmax by its other name. The papers' scales are 64 and 30."""
    return _angular(classes, dim, lambda params, c: c - margin, scale)                      # (5)


def arcface(*, classes: int, dim: int, margin: float = 0.5, scale: float = 16.0) -> EmbeddingLoss:
    """(6), margin in radians. The paper's scale is 64."""

    def target(params: Params, c: Tensor) -> Tensor:
        sine = (1 - c.square()).clamp_min(torch.finfo(c.dtype).eps).sqrt()
        return torch.where(c > -cos(margin), c * cos(margin) - sine * sin(margin), c - margin * sin(margin))

    return _angular(classes, dim, target, scale)                                            # (6)


def _angular(
    classes: int,
    dim: int,
    target: Callable[[Params, Tensor], Tensor],
    scale: float | None,
    scheduled: Callable[[int], Params] | None = None,
) -> EmbeddingLoss:
    """(1) for l_j = scale cos theta_j, l_y = scale target(params, cos theta_y); scale None is |z|."""

    def init(seed: int) -> Params:
        return {**_weights(classes, dim, seed), **(scheduled(0) if scheduled else {})}

    def value(params: Params, z: Float[Tensor, "n dim"], y: Int[Tensor, " n"]) -> Scalar:
        c = cosines(z, params["W"])
        logits = torch.where(membership(y, classes), target(params, c.gather(-1, y[:, None])), c)
        return cross_entropy(logits * (length(z) if scale is None else scale), y)      # (1)

    return EmbeddingLoss(init, value, scheduled, classes)


def _weights(classes: int, dim: int, seed: int) -> Params:
    return {"W": torch.randn(classes, dim, generator=torch.Generator().manual_seed(seed)) / dim**0.5}
