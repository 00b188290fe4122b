"""Matching Networks for One Shot Learning
Vinyals, Blundell, Lillicrap, Kavukcuoglu & Wierstra, NeurIPS 2016, arXiv:1606.04080

    p(y = k | x) = sum over (x_i, y_i) in S with y_i = k of a(x, x_i)                      (1)
    a(x, x_i)    = softmax_i c(f(x), g(x_i))                                               (2)
    theta        = argmin  E_task  -log p(y | x) over Q                                    (3)

where f = g = embed, or, with full context embeddings (FCE), both depend on all of S:

    g(x_i, S) = embed(x_i) + the outputs at i of two LSTMs that read S from either end     (4)
    f(x, S)   = an LSTM of K steps on embed(x) that attends to the g(x_i, S)               (5)

The predictor answers log p. Departs: c is the cosine times a temperature, where the paper's is the bare cosine, which
cannot tell a(x, x_i) apart by more than a factor of e^2; or it is -|f - g|^2.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..core import Data, Learner, Params, predictor, static
from ..nn import condition, cosines, cross_entropy, functional, labels, membership, population
from ..nn.context import QueryContext, SupportContext
from ..objectives.query import query_loss


@predictor
class Matches:
    """Scores by the attention that the support examples of each class draw."""

    theta: Any
    g: Float[Tensor, "m dim"]
    y: Int[Tensor, " m"]
    embed: Callable[[Params, Tensor], Tensor] = static()
    context: Callable[..., Tensor] | None = static()
    ways: int = static()
    temperature: float | None = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        member = membership(self.y, self.ways)
        log_a = self._compared(x).log_softmax(-1)                                          # (2)
        return torch.where(member, log_a[..., None], -torch.inf).logsumexp(-2)             # (1)

    def attends(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n m"]:
        """a(x, x_i) of each x_i in S, in its order."""
        return self._compared(x).softmax(-1)

    def _compared(self, x: Tensor) -> Tensor:
        """c of each x and each x_i."""
        f = self.embed(self.theta["embed"], x)
        if self.context is not None:
            f = self.context(self.theta["f"], f, self.g)                                   # (5)
        if self.temperature is None:
            return -(f[:, None] - self.g).square().sum(-1)
        return cosines(f, self.g) * self.temperature


def matching(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    metric: str = "cosine",
    temperature: float = 10.0,
    context: int | None = None,
    steps: int = 5,
) -> Learner[dict[str, Params]]:
    """Matching networks: theta["embed"] is an embedding, f answers the log of the attention drawn by each class.

    metric: "cosine", multiplied by temperature, or "euclidean" (minus the squared distance).
    context: None, or the size of embed's features: full context embeddings (4, 5), whose theta holds "g" and "f" too;
        the order of S then matters. steps: K of (5).
    Raises ValueError on an unknown metric.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"matching: metric is {metric!r}, expected 'cosine' or 'euclidean'.")
    scale = temperature if metric == "cosine" else None
    reads = {"g": functional(SupportContext(context)), "f": functional(QueryContext(context, steps))} if context else {}
    read = {part: net for part, (net, _) in reads.items()}

    def start(seed: int):
        return {"embed": init(seed), **{part: read_init(seed) for part, (_, read_init) in reads.items()}}

    def adapt(theta, S: Data) -> Matches:
        g = embed(theta["embed"], S.x)
        if context:
            g = read["g"](theta["g"], g)                                                   # (4)
        query_embed, params = condition(embed, theta["embed"], S.x)
        return Matches({**theta, "embed": params}, g, labels(S.y, ways), query_embed, read.get("f"), ways, scale)

    return Learner(
        start, adapt, query_loss(cross_entropy),                                           # (3)
        differentiates=False, statistics=population(embed, "embed"),
    )
