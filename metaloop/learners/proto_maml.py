"""Meta-Dataset: A Dataset of Datasets for Learning to Learn from Few Examples
Triantafillou, Zhu, Dumoulin, Lamblin, Evci, Xu, Goroshin, Gelada, Swersky, Manzagol & Larochelle, ICLR 2020,
arXiv:1903.03096

Proto-MAML: MAML whose last layer starts as a prototypical network, for any number of classes.

    c_k       = mean of embed(theta, x) over the (x, y) in S with y = k                        (1)
    W_k, b_k  = 2 c_k, -|c_k|^2                                                                (2)
    phi_0     = (theta, W, b)
    phi_{t+1} = phi_t - alpha * grad_phi L(phi_t; S)        t = 0 .. T-1                       (3)
    f(x)_k    = W_k . embed(phi_T, x) + b_k                                                    (4)
    theta     = argmin  E_task  L(phi_T; Q)                                                    (5)

Before the first step (4) is -|embed(x) - c_k|^2 but for what is the same for all k: ProtoNet's softmax. (5) is
differentiated through (2), also where the gradient in (3) is held constant (first order).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core import Data, Learner, Params, predictor, static
from ..nn import Descent, class_mean, condition, cross_entropy, descend, learned, population
from ..objectives.query import query_loss

W, B = "proto_maml.W", "proto_maml.b"  # the last layer, beside the network's names in phi


@predictor
class Moved:
    """A network and a linear layer on it that have been moved to one task. A class without examples is never chosen."""

    theta: Params
    W: Float[Tensor, "ways dim"]
    b: Float[Tensor, " ways"]
    present: Bool[Tensor, " ways"]
    embed: Callable[[Params, Tensor], Tensor] = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        scores = self.embed(self.theta, x) @ self.W.mT + self.b                                # (4)
        return torch.where(self.present, scores, -torch.inf)


def proto_maml(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    inner_lr: float,
    inner_steps: int = 1,
    first_order: bool = False,
    optimizer: Descent | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Learner[Params]:
    """Proto-MAML: theta is an embedding, f it and a layer of prototypes after inner_steps steps of descent on S.

    embed: x -> features [n, dim]. ways may differ at meta-test. optimizer: the inner method, `metaloop.nn.sgd()` unless
    given. With inner_steps=0 it is `protonet`.
    """

    def moved(phi: Params, present: Tensor, embed=embed) -> Moved:
        theta = {n: p for n, p in phi.items() if n not in (W, B)}
        return Moved(theta, phi[W], phi[B], present, embed)

    def L(fast: Params, rest: Params, present: Tensor, S: Data) -> Tensor:
        return loss(moved({**rest, **fast}, present)(S.x), S.y)

    def adapt(theta: Params, S: Data) -> Moved:
        c, present = class_mean(embed(theta, S.x), S.y, ways)                                  # (1)
        fast = {**learned(theta, embed), W: 2 * c, B: -c.square().sum(-1)}                     # (2)
        rest = {n: p for n, p in theta.items() if n not in fast}
        steps = descend(L, fast, (rest, present, S), lr=inner_lr, steps=inner_steps, optimizer=optimizer,
                        first_order=first_order)  # fmt: skip  # (3)
        phi = {**rest, **(steps or [fast])[-1]}
        query_embed, conditioned = condition(embed, moved(phi, present).theta, S.x)
        return moved({**phi, **conditioned}, present, query_embed)

    return Learner(init, adapt, query_loss(loss), statistics=population(embed))                # (5)
