"""Learning to Compare: Relation Network for Few-Shot Learning
Sung, Yang, Zhang, Xiang, Torr & Hospedales, CVPR 2018, arXiv:1711.06025

    c_k          = sum of embed(x) over the (x, y) in S with y = k, a map as embed(x) is one   (1)
    r_k(x)       = sigmoid g(c_k, embed(x))             the relation module, a network         (2)
    theta        = argmin  E_task  mean of (r_k(x) - 1[y = k])^2 over all k and (x, y) in Q    (3)
    f(x)_k       = log r_k(x), so that p(y = k | x) = r_k(x) / sum_j r_j(x)                    (4)

With loss="cross_entropy", f(x)_k = g(c_k, embed(x)) in (4), and (3) is -log p(y | x) over Q.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..core import Data, Learner, Params, Scalar, Task, predictor, static
from ..nn import class_sum, condition, cross_entropy, membership
from ..objectives.query import query_loss

Theta = dict[str, Params]


@predictor
class Related:
    """Scores by what the relation module says of a query and each class's map c_k."""

    theta: Theta
    c: Float[Tensor, "ways ..."]
    present: Bool[Tensor, " ways"]  # a class without examples is never chosen
    embed: Callable[[Params, Tensor], Tensor] = static()
    relate: Callable[[Params, Tensor, Tensor], Tensor] = static()
    squashed: bool = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        g = self.relate(self.theta["relate"], self.c, self.embed(self.theta["embed"], x))     # (2)
        return torch.where(self.present, F.logsigmoid(g) if self.squashed else g, -torch.inf)  # (4)


def squared_error(log_r: Float[Tensor, "n ways"], y: Int[Tensor, " n"]) -> Scalar:
    """Equation (3), over the pairs with classes that S shows."""
    r, one = log_r.exp(), membership(y, log_r.shape[-1]).to(log_r)
    return (r - one).square().sum() / (log_r > -torch.inf).sum()


def relation(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    relate: Callable[[Params, Tensor, Tensor], Tensor],
    init_relate: Callable[[int], Params],
    *,
    ways: int,
    loss: str = "mse",
) -> Learner[Theta]:
    """Relation networks: theta = {"embed": of embed, "relate": of relate}, both learned, by the query loss alone.

    embed: images to maps, `nn.conv4(features="map")` say. relate: (params, c [ways, *map], q [n, *map]) -> logits
        [n, ways], as `nn.Relation` has them.
    loss: "mse" (3) or "cross_entropy".
    c_k is a sum, so it grows with the number of shots: theta is for the number it was trained with.
    Raises ValueError on an unknown loss, or if the norms of relate are `support`: it sees pairs with queries.
    """
    if loss not in ("mse", "cross_entropy"):
        raise ValueError(f"relation: loss is {loss!r}, expected 'mse' or 'cross_entropy'.")
    if "support" in getattr(relate, "policies", ()):
        raise ValueError(
            "relation: relate has norm policy 'support', expected 'running', 'transductive' or 'group'. "
            "It sees pairs with queries, and the support set holds none."
        )
    squashed = loss == "mse"
    running = {part: net for part, net in (("embed", embed), ("relate", relate))
               if "running" in getattr(net, "policies", ())}  # fmt: skip

    def start(seed: int) -> Theta:
        return {"embed": init(seed), "relate": init_relate(seed)}

    def adapt(theta: Theta, S: Data) -> Related:
        c = class_sum(embed(theta["embed"], S.x), S.y, ways)                                   # (1)
        query_embed, params = condition(embed, theta["embed"], S.x)
        theta = {"embed": params, "relate": theta["relate"]}
        return Related(theta, c, membership(S.y, ways).any(0), query_embed, relate, squashed)

    def statistics(theta: Theta, task: Task) -> Theta:
        """What running norms see of a task: embed of all its examples, relate of all pairs of a class and a query."""
        f = adapt(theta, task.support)
        seen = {"embed": (torch.cat([task.support.x, task.query.x]),),
                "relate": (f.c, f.embed(f.theta["embed"], task.query.x))}  # fmt: skip
        return {part: net.statistics(theta[part], *seen[part]) for part, net in running.items()}

    return Learner(
        start, adapt, query_loss(squared_error if squashed else cross_entropy),                # (3)
        differentiates=False, statistics=statistics if running else None, statistics_of_task=True,
    )
