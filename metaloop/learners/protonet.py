"""Prototypical Networks for Few-shot Learning
Snell, Swersky & Zemel, NeurIPS 2017, arXiv:1703.05175

    c_k          = mean of embed(x) over the (x, y) in S with y = k                       (1)
    f(x)_k       = -|embed(x) - c_k|^2                                                    (2)
    p(y = k | x) = softmax_k f(x)                                                         (3)
    theta        = argmin  E_task  -log p(y | x) over Q                                   (4)

With metric="cosine", (2) is cos(embed(x), c_k) * temperature.

Departs: in meta-training the support set and the queries pass through the network one after the other; the
authors' code passes them together, so their batch norm sees both at once.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core import Data, Learner, Params, predictor, static
from ..nn import class_mean, condition, cosines, cross_entropy, population
from ..objectives.query import query_loss


@predictor
class NearestPrototype:
    """Scores by the distance to each class's prototype c_k."""

    theta: Params
    c: Float[Tensor, "ways dim"]
    present: Bool[Tensor, " ways"]  # a class without examples is never chosen
    embed: Callable[[Params, Tensor], Tensor] = static()
    temperature: float | None = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        z = self.embed(self.theta, x)
        score = -(z[:, None] - self.c).square().sum(-1)                                   # (2)
        if self.temperature is not None:
            score = cosines(z, self.c) * self.temperature
        return torch.where(self.present, score, -torch.inf)


def protonet(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    metric: str = "euclidean",
    temperature: float = 10.0,
) -> Learner[Params]:
    """Prototypical networks: theta is an embedding, f scores by distance to the classes' mean embeddings.

    metric: "euclidean" (squared distance) or "cosine", whose scores are multiplied by temperature.
    """
    if metric not in ("euclidean", "cosine"):
        raise ValueError(f"protonet: metric is {metric!r}, expected 'euclidean' or 'cosine'.")
    scale = temperature if metric == "cosine" else None

    def adapt(theta: Params, S: Data) -> NearestPrototype:
        c, present = class_mean(embed(theta, S.x), S.y, ways)                             # (1)
        query_embed, theta = condition(embed, theta, S.x)
        return NearestPrototype(theta, c, present, query_embed, scale)

    return Learner(
        init, adapt, query_loss(cross_entropy),                                           # (3, 4)
        differentiates=False, statistics=population(embed),
    )
