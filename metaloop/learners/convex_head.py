"""Hamiltonian Descent for Composite Objectives
O'Donoghue & Maddison, NeurIPS 2019, arXiv:1906.02608

as the head of a classifier. A: the features of S, one row each; Y: its classes, one-hot; X: the head, [dim, ways]:

    min_X  F(AX) + G(X)      F(U) = sum_i ln sum exp U_i - <U, Y>,     G(X) = l/2 |X|^2                       (1)
    max_p -F*(p) - G*(-A'p)  F*(p) = sum q ln q,  q = p + Y,           G*(Z) = |Z|^2 / 2l                     (2)
    gap(X, p)   = F(AX) + G(X) + F*(p) + G*(-A'p)  >=  (1) at X less its minimum                              (3)
    X'          = -A'p / l - X,      p' = softmax(AX) - Y - p                                                 (4)

The flow (4) is Hamilton's, with the gap as its energy, but for the two terms that contract. Along it
gap(t) <= gap(0) e^-t. Steps:

    X_{k+1}     = (1 - h) X_k - h A'p_k / l                                                                   (5)
    p_{k+1}     = (1 - h) p_k + h (softmax(A X_{k+1}) - Y)         from X_0 = 0, p_0 = softmax(0) - Y
    h           = 1 / (1 + w),   w = |A| / sqrt(2 l)               stable below 2 / (1 + w)                   (6)
    f(x)        = X_K'embed(x),   and the gap: a bound of how far X_K is from solving (1)                     (7)
    theta       = argmin  E_task  -log softmax_y f(x) over Q       back through all K steps

Departs: the proof of the rate is ours (its page), as are (6) and the use as a head.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..core import Data, Learner, Params, Scalar, Task, predictor, static
from ..nn import condition, cross_entropy, membership, population
from ..objectives.query import scalars

Theta = dict[str, Params | Tensor]


def gap(A: Float[Tensor, "n dim"], Y: Float[Tensor, "n ways"], l: Scalar | float, X: Tensor, p: Tensor) -> Scalar:
    """(3), in nats: of the sum over examples, not the mean; summed in float64, for its terms nearly cancel. p + Y must
    be distributions, and what rounding in p takes below 0, of an entry or of the gap, counts as 0."""
    a, y, w, z = (t.double() for t in (A, Y, X, p))
    U, q = a @ w, (z + y).clamp_min(0)
    primal = (U.logsumexp(-1) - (U * y).sum(-1)).sum() + l / 2 * w.square().sum()
    total = primal + torch.special.xlogy(q, q).sum() + (a.mT @ z).square().sum() / (2 * l)
    return total.clamp_min(0).to(A.dtype)


def descend(
    A: Float[Tensor, "n dim"], Y: Float[Tensor, "n ways"], l: Scalar, *, steps: int, h: Scalar | float | None = None
) -> tuple[Float[Tensor, "dim ways"], Float[Tensor, "n ways"]]:
    """X_K and p_K of (5), with the step of (6) unless h is given."""
    h = 1 / (1 + A.norm() / (2 * l).sqrt()) if h is None else h                                               # (6)
    X, p = A.new_zeros(A.shape[1], Y.shape[1]), 1 / Y.shape[1] - Y
    for _ in range(steps):
        X = (1 - h) * X - h * A.mT @ p / l                                                                    # (5)
        p = (1 - h) * p + h * ((A @ X).softmax(-1) - Y)
    return X, p


@predictor
class ConvexHead:
    """Scores by the head that solves a convex problem on S, nearly; `gap` says how nearly."""

    theta: Params
    X: Float[Tensor, "dim ways"]
    gap: Float[Tensor, ""]
    present: Bool[Tensor, " ways"]  # a class without examples is never chosen
    embed: Callable[[Params, Tensor], Tensor] = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        return torch.where(self.present, scaled(self.embed(self.theta, x)) @ self.X, -torch.inf)              # (7)


def scaled(z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
    """Over the root of their number, features of size 1 have length 1, and the step does not depend on it."""
    return z / z.shape[1] ** 0.5


def convex_head(
    embed: Callable[[Params, Tensor], Tensor], init: Callable[[int], Params], *, ways: int, strength: float = 0.1,
    steps: int = 20,
) -> Learner[Theta]:  # fmt: skip
    """A head that is solved anew for each task: theta = {"embed": of embed, "strength": ln l}, both learned.

    embed: to features [n, dim]. strength: l at the start, for the sum over S of losses of features over sqrt(dim).
    steps: K. `info` and f have the gap: (1) at f's head is above its minimum by at most so many nats.
    Raises ValueError unless strength is above 0 and there is a step.
    """
    if not strength > 0 or steps < 1:
        raise ValueError(f"convex_head: strength is {strength}, steps {steps}, expected above 0 and at least 1.")

    def start(seed: int) -> Theta:
        return {"embed": init(seed), "strength": torch.tensor(strength).log()}

    def adapt(theta, S: Data) -> ConvexHead:
        A, member, l = scaled(embed(theta["embed"], S.x)), membership(S.y, ways), theta["strength"].exp()
        X, p = descend(A, member.to(A), l, steps=steps)
        query_embed, params = condition(embed, theta["embed"], S.x)
        return ConvexHead(params, X, gap(A, member.to(A), l, X, p), member.any(0), query_embed)

    def objective(adapt, theta, task: Task):
        f = adapt(theta, task.support)
        scores = f(task.query.x)
        return cross_entropy(scores, task.query.y), {**scalars(scores, task.query.y), "gap": f.gap.detach()}

    return Learner(start, adapt, objective, differentiates=False, statistics=population(embed, "embed"))
