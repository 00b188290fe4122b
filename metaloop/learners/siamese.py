"""Siamese Neural Networks for One-shot Image Recognition
Koch, Zemel & Salakhutdinov, ICML Deep Learning Workshop 2015, https://www.cs.cmu.edu/~rsalakhu/papers/oneshot1.pdf

    h(x)      = sigmoid(embed(x))                                                         (1)
    l(x, x')  = sum_j w_j |h_j(x) - h_j(x')| + b                                          (2)
    p(x, x')  = sigmoid(l(x, x'))           that x and x' are of one class
    L(B)      = - mean of log p over the pairs of B of one class, half,
                - mean of log(1 - p) over its pairs of two classes, half                  (3)
    theta     = argmin  E_B  L(B)           B: a task's support set and its queries
    f(x)_k    = max over the (s, y) in S with y = k of  l(x, s)                           (4)

(4) is argmax_k p(x, s), and its softmax is a probability: if pairs are independent, the one that x is of class k, given
that it is of one class alone, is in proportion to exp l.

Departs: (2) has b, a threshold; without it p is one half for two equal examples. (3) takes all pairs of a batch,
with half of the weight for those of one class, in place of drawn pairs of which half are; no weight decay.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn import condition, membership, population


def likeness(head: Params, h: Float[Tensor, "n dim"], g: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """The logit of p for each pair of a row of h and a row of g."""
    return (h[:, None] - g).abs() @ head["w"] + head["b"]                                 # (2)


@predictor
class Likeness:
    """Scores by the logit l of being of one class with each class's likest example: above 0 says yes, below no."""

    net: Params
    head: Params
    h: Float[Tensor, "shots dim"]
    y: Int[Tensor, " shots"]
    embed: Callable[[Params, Tensor], Tensor] = static()
    ways: int = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        l = likeness(self.head, self.embed(self.net, x).sigmoid(), self.h)                # (1, 2)
        member = membership(self.y, self.ways)
        return torch.where(member.mT, l[:, None], -torch.inf).amax(-1)                    # (4)


def siamese(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    dim: int,
) -> Learner[dict[str, Params]]:
    """Siamese networks: theta = {"net", "head"}, an embedding, and w and b of the weighted distance.

    dim: how many numbers embed gives. In meta-training a task is a batch: all pairs among its support set and queries
    are compared. info: "accuracy", the share of pairs told right, of one class and of two with half the weight each.
    """

    def start(seed: int):
        w = torch.randn(dim, generator=torch.Generator().manual_seed(seed)) / dim**0.5
        return {"net": init(seed), "head": {"w": w, "b": torch.zeros(())}}

    def adapt(theta, S: Data) -> Likeness:
        h = embed(theta["net"], S.x).sigmoid()                                            # (1)
        query_embed, net = condition(embed, theta["net"], S.x)
        return Likeness(net, theta["head"], h, S.y, query_embed, ways)

    def objective(adapt, theta, task: Task):
        x, y = (torch.cat(part) for part in zip(*task, strict=True))
        h = embed(theta["net"], x).sigmoid()                                              # (1)
        l, same = likeness(theta["head"], h, h), y[:, None] == y
        pairs = ~torch.eye(len(y), dtype=torch.bool, device=y.device)  # no example with itself
        loss = right = 0
        for of, sign in ((same & pairs, 1), (~same, -1)):
            share = of.to(l) / of.sum().clamp_min(1) / 2
            loss = loss + (share * F.softplus(-sign * l)).sum()                           # (3)
            right = right + (share * (sign * l > 0)).sum()
        return loss, {"accuracy": right}

    return Learner(start, adapt, objective, differentiates=False, statistics=population(embed, "net"))
