"""Metrics learned from class identities: an embedding trained on all classes at once, by a loss with a margin
SphereFace (Liu et al., CVPR 2017, arXiv:1704.08063), CosFace (Wang et al., CVPR 2018, arXiv:1801.09414), ArcFace
(Deng et al., CVPR 2019, arXiv:1801.07698), FaceNet (Schroff, Kalenichenko & Philbin, CVPR 2015, arXiv:1503.03832)

    z(x)   = embed(x) / |embed(x)|                                                        (1)
    f(x)_k = max over the (s, y) in S with y = k of  z(x) . z(s)                          (2)
    theta  = argmin  E_B  L(embed(B), B's classes)       B: a batch of the training set   (3)

One predictor for all: the nearest example on the sphere decides. They differ in L, which is an objective's affair:
`metaloop.objectives` has softmax, normface, sphereface, cosface, arcface, triplet (all, or semi-hard), from_pml.

Losses with weights for each class need labels over the whole training set: `pool.flat()`. Triplets need several
examples of each class in a batch: ordinary tasks. Either way B is a task's support set and its queries together.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn import condition, labels, membership, population, unit
from ..objectives.embedding import EmbeddingLoss


@predictor
class NearestNeighbour:
    """Scores by the cosine to each class's nearest example z(s)."""

    theta: Params
    z: Float[Tensor, "shots dim"]
    y: Int[Tensor, " shots"]
    embed: Callable[[Params, Tensor], Tensor] = static()
    ways: int = static()
    temperature: float = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        cosine = unit(self.embed(self.theta, x)) @ self.z.mT                              # (1)
        member = membership(self.y, self.ways)
        nearest = torch.where(member.mT, cosine[:, None], -torch.inf).amax(-1)            # (2)
        return nearest * self.temperature  # a class without examples is never chosen


def margin(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    loss: EmbeddingLoss,
    temperature: float = 10.0,
) -> Learner[dict[str, Params]]:
    """A metric by class identities: theta = {"net", "loss"}, an embedding and what the loss learns of each class.

    loss: one of `metaloop.objectives`, e.g. cosface(classes=pool.train.classes, dim=...). f's cosines are multiplied by
    temperature, which changes no decision.
    """

    def start(seed: int):
        return {"net": init(seed), "loss": loss.init(seed)}

    def adapt(theta, S: Data) -> NearestNeighbour:
        z = unit(embed(theta["net"], S.x))                                                # (1)
        query_embed, params = condition(embed, theta["net"], S.x)
        return NearestNeighbour(params, z, labels(S.y, ways), query_embed, ways, temperature)

    def objective(adapt, theta, task: Task):
        B = Data(*(torch.cat(part) for part in zip(*task, strict=True)))
        return loss.value(theta["loss"], embed(theta["net"], B.x), B.y), {}               # (3)

    scheduled = loss.scheduled
    return Learner(
        start, adapt, objective, differentiates=False, statistics=population(embed, "net"),
        scheduled=(lambda step: {"loss": scheduled(step)}) if scheduled else None, classes=loss.classes,
    )
