"""Distance between sets of local features: optimal transport in place of a distance of embeddings
after Zhang, Cai, Lin & Shen, DeepEMD, CVPR 2020, arXiv:2003.06777, with
Feydy, Sejourne, Vialard, Amari, Trouve & Peyre, AISTATS 2019, arXiv:1810.08278 (S_e)

embed(x) is a map; z_i(x), i = 1 .. P, are its features at P positions, which u_i are, in units of the map's side.

    c_k          = mean of embed(x) over the (x, y) in S with y = k, a map as embed(x) is one                 (1)
    C_ij         = |z_i(x) - z_j(c_k)|^2 + place |u_i - u_j|^2                                                (2)
    f(x)_k       = -P (OT_e(x, c_k) - OT_e(c_k, c_k) / 2)                                                     (3)
    theta        = argmin  E_task  -log softmax_y f(x) over Q                                                 (4)

(3) is -P S_e(x, c_k) but for OT_e(x, x), which is the same for all k. With the plan held at the diagonal it would be
-|embed(x) - c_k|^2, ProtoNet; so it is as `place` grows and e falls. Transport lets the features of a class move.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core import Data, Learner, Params, predictor, static
from ..nn import class_mean, condition, cross_entropy, population
from ..objectives.query import query_loss
from ..objectives.transport import Transport, sinkhorn, squared_distances


def local(z: Float[Tensor, "n dim *map"], place: float) -> Float[Tensor, "n positions _"]:
    """The features at each position of a map, and where it is, so that (2) is a squared distance."""
    sides = [torch.linspace(0, place**0.5, size, device=z.device, dtype=z.dtype) for size in z.shape[2:]]
    u = torch.stack(torch.meshgrid(*sides, indexing="ij"))
    return torch.cat([z, u.expand(len(z), *u.shape)], 1).flatten(2).mT


@predictor
class NearestSet:
    """Scores by what it costs to carry a query's local features to each class's."""

    theta: Params
    c: Float[Tensor, "ways positions dim"]
    own: Float[Tensor, " ways"]  # OT_e(c_k, c_k)
    present: Bool[Tensor, " ways"]  # a class without examples is never chosen
    embed: Callable[[Params, Tensor], Tensor] = static()
    place: float = static()
    eps: float = static()
    steps: int = static()

    def plans(self, x: Float[Tensor, "n ..."]) -> Transport:
        """The transport of each example to each class: its plan is [n, ways, positions, positions]."""
        z = local(self.embed(self.theta, x), self.place)
        return sinkhorn(squared_distances(z[:, None], self.c), eps=self.eps, steps=self.steps)               # (2)

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        score = -self.c.shape[1] * (self.plans(x).cost - self.own / 2)                                       # (3)
        return torch.where(self.present, score, -torch.inf)


def transport(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    eps: float = 1.0,
    steps: int = 20,
    place: float = 0.0,
) -> Learner[Params]:
    """Transport of local features: theta is an embedding into maps, `nn.conv4(features="map")` say.

    eps: e, in units of a squared distance of local features. steps: of Sinkhorn, unrolled; the plan need not have
    converged to be of use. place: what it costs, in the same units, to go from one side of the map to the other; 0 for
    sets without any order.
    Raises ValueError unless eps is above 0, there is a step, and place is at least 0.
    """
    if not eps > 0 or steps < 1 or not place >= 0:
        raise ValueError(
            f"transport: eps is {eps}, steps {steps}, place {place}, expected eps above 0, steps at least 1, place at "
            "least 0."
        )

    def adapt(theta: Params, S: Data) -> NearestSet:
        z = embed(theta, S.x)
        if z.ndim < 3:
            raise ValueError(f"transport: embed gives {tuple(z.shape)}, expected maps [n, channels, height, width].")
        c, present = class_mean(local(z, place), S.y, ways)                                                  # (1)
        own = sinkhorn(squared_distances(c, c), eps=eps, steps=steps).cost
        query_embed, theta = condition(embed, theta, S.x)
        return NearestSet(theta, c, own, present, query_embed, place, eps, steps)

    return Learner(
        init, adapt, query_loss(cross_entropy),                                                              # (4)
        differentiates=False, statistics=population(embed),
    )
