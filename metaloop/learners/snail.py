"""A Simple Neural Attentive Meta-Learner (SNAIL)
Mishra, Rohaninejad, Chen & Abbeel, ICLR 2018, arXiv:1707.03141

Learning is reading a sequence. With S = (x_1, y_1) .. (x_m, y_m) in this order and a query x of unknown label,

    u_t     = [embed(x_t), onehot(y_t)],   u_{m+1} = [embed(x), 0]                        (1)
    h       = causal layers of u_1 .. u_{m+1}: attention, TC, attention, TC, attention    (2)
    f(x)    = W h_{m+1} + b                                                               (3)
    theta   = argmin  E_task  -log softmax f(x)_y over Q                                  (4)

f = F(S) is the memory of the layers after (x_m, y_m). Each query is the last element of a sequence of its own: queries
do not see each other, and share the work on S. One theta serves any number of shots: train it on `pool.any_shots()`.

Departs: a TC block ends with the first dilation that reaches back over all of u; one S is asked about several queries.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Data, Learner, Params, predictor, static
from ..nn import condition, cross_entropy, functional, membership, population
from ..nn.causal import Reader
from ..objectives.query import query_loss


@predictor
class Continuation:
    """Reads [embed(x), 0] as the next element of a sequence that is remembered."""

    theta: Any
    memory: Any
    embed: Callable[[Params, Tensor], Tensor] = static()
    reader: Callable[..., Any] = static()
    ways: int = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        return self._read(x)                                                               # (2, 3)

    def attends(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n m"]:
        """The weights of the last attention on the examples of S, in their order; what lacks to 1 is on x itself."""
        return self._read(x, True)[:, :-1]

    def _read(self, x: Tensor, attended: bool = False) -> Tensor:
        z = self.embed(self.theta["embed"], x)
        u = torch.cat([z, z.new_zeros(len(z), self.ways)], -1)                             # (1)
        return self.reader(self.theta["reader"], u, self.memory, attended)


def snail(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    dim: int,
    shots: int = 5,
    **widths,
) -> Learner[dict[str, Params]]:
    """SNAIL: theta = {"embed", "reader"}, features of size dim; f answers what comes next in the sequence S, x.

    shots: the most examples per class that the TC blocks reach back over; with more, attention alone does.
    widths: filters, keys and values of `metaloop.nn.causal.Reader`, the paper's unless given.
    """
    reader, reader_init = functional(Reader(dim + ways, ways, length=ways * shots + 1, **widths))

    def start(seed: int):
        return {"embed": init(seed), "reader": reader_init(seed)}

    def adapt(theta, S: Data) -> Continuation:
        z = embed(theta["embed"], S.x)
        y = membership(S.y, ways).to(z)
        _, memory = reader(theta["reader"], torch.cat([z, y], -1))                         # (1, 2)
        query_embed, params = condition(embed, theta["embed"], S.x)
        return Continuation({**theta, "embed": params}, memory, query_embed, reader, ways)

    return Learner(
        start, adapt, query_loss(cross_entropy),                                           # (4)
        differentiates=False, statistics=population(embed, "embed"),
    )
