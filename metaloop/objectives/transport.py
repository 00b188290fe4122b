"""Optimal transport: what it costs to carry one weighted set of points to another
Peyre & Cuturi, Computational Optimal Transport, 2019, arXiv:1803.00567;
Mensch, Blondel & Peyre, Geometric Losses for Distributional Learning, ICML 2019, arXiv:1905.06005

C_ij: the cost of carrying i to j; a, b: weights, each of sum 1; e: the strength of the entropy.

    OT_e(a, b)   = min_P <C, P> + e KL(P | a b')   over P >= 0 with row sums a and column sums b                (1)
                 = max_{f,g} <a, f> + <b, g> - e <a b', exp((f + g - C) / e) - 1>                               (2)
    f_i          = -e ln sum_j b_j exp((g_j - C_ij) / e)          the best f for g, and likewise                (3)
    g_j          = -e ln sum_i a_i exp((f_i - C_ij) / e)          the best g for f
    P_ij         = a_i b_j exp((f_i + g_j - C_ij) / e)                                                          (4)
    S_e(a, b)    = OT_e(a, b) - OT_e(a, a) / 2 - OT_e(b, b) / 2                                                 (5)
    W_p^p        = mean |sort x - sort y|^p       of points on a line, as many x as y, |x - y|^p the cost       (6)

A fixed number of steps (3), unrolled: it can be batched, compiled, and differentiated to any order. After g the columns
of P have their sums, so the sum in (2) is zero: <a, f> + <b, g> is a lower bound of (1) after any number of steps,
and grows.

Scores f of classes with distances C between them, in place of ln sum exp and softmax:

    gLSE(f)      = -ln min_a a'Ka   over a >= 0 of sum 1,   K_ij = exp(-(f_i + f_j + C_ij) / 2)                 (7)
    gsoftmax(f)  = that a, which is the derivative of gLSE
    loss(q, f)   = gLSE(f) - <q, f> - OT_2(q, q) / 2,   at least 0                                              (8)

With C = 0 gLSE is the maximum; with C infinite between any two, gLSE is ln sum exp, and (8) is KL(q | softmax f).
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Transport(NamedTuple):
    """cost: OT_e, from below. f, g: the potentials. plan: P, whose columns sum to b, and its rows to a in the limit."""

    cost: Float[Tensor, "*batch"]
    f: Float[Tensor, "*batch n"]
    g: Float[Tensor, "*batch m"]
    plan: Float[Tensor, "*batch n m"]


def sinkhorn(
    C: Float[Tensor, "*batch n m"], a: Tensor | None = None, b: Tensor | None = None, *, eps: float, steps: int = 50
) -> Transport:
    """(1) by `steps` steps (3) from g = 0, in logarithms.

    a [*batch, n] and b [*batch, m], which may be broadcast, are uniform unless given; a point of weight zero counts for
    nothing. eps: e, in the units of C. steps: of the order of max C / eps, or more; plan.sum(-1) - a says how far it is
    from the end. Raises ValueError unless eps is above 0 and there is a step.

    >>> C = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> sinkhorn(C, eps=0.5).plan
    tensor([[0.4404, 0.0596],
            [0.0596, 0.4404]])
    """
    if not eps > 0 or steps < 1:
        raise ValueError(f"sinkhorn: eps is {eps}, steps {steps}, expected eps above 0 and at least one step.")
    a = C.new_full(C.shape[-2:-1], 1 / C.shape[-2]) if a is None else a
    b = C.new_full(C.shape[-1:], 1 / C.shape[-1]) if b is None else b
    ln_a, ln_b, f, g = _log(a)[..., None], _log(b)[..., None, :], C.new_zeros(()), torch.zeros_like(C[..., 0, :])
    for _ in range(steps):
        f = -eps * (ln_b + (g[..., None, :] - C) / eps).logsumexp(-1)                                      # (3)
        g = -eps * (ln_a + (f[..., None] - C) / eps).logsumexp(-2)
    P = (ln_a + ln_b + (f[..., None] + g[..., None, :] - C) / eps).exp()                                   # (4)
    return Transport((a * f).sum(-1) + (b * g).sum(-1), f, g, P)                                           # (2)


def squared_distances(x: Float[Tensor, "*#batch n dim"], y: Float[Tensor, "*#batch m dim"]) -> Tensor:
    """|x_i - y_j|^2, [*batch, n, m], by inner products: rounding may leave a zero a little below zero."""
    return x.square().sum(-1)[..., None] + y.square().sum(-1)[..., None, :] - 2 * x @ y.mT


def divergence(
    x: Float[Tensor, "*batch n dim"], y: Float[Tensor, "*batch m dim"], a: Tensor | None = None,
    b: Tensor | None = None, *, eps: float, steps: int = 50,
) -> Float[Tensor, "*batch"]:  # fmt: skip
    """S_e (5) of points x of weights a and y of weights b, uniform unless given, with |x - y|^2 the cost.

    At least 0 in the limit of many steps, and 0 for equal sets; W_2^2 for small e and enough steps, which are more the
    smaller it is (`sinkhorn`), |mean x - mean y|^2 for large.
    Raises as `sinkhorn`.
    """
    how = {"eps": eps, "steps": steps}
    xy, xx, yy = squared_distances(x, y), squared_distances(x, x), squared_distances(y, y)
    return sinkhorn(xy, a, b, **how).cost - (sinkhorn(xx, a, a, **how).cost + sinkhorn(yy, b, b, **how).cost) / 2


def wasserstein(x: Float[Tensor, "*batch n"], y: Float[Tensor, "*batch n"], *, p: float = 1) -> Float[Tensor, "*batch"]:
    """(6): W_p^p of as many numbers x as y, exactly. Raises ValueError if p is below 1."""
    if not p >= 1:
        raise ValueError(f"wasserstein: p is {p}, expected at least 1. Below, sorting is not the best plan.")
    return (x.sort(-1).values - y.sort(-1).values).abs().pow(p).mean(-1)


def geometric_softmax(
    f: Float[Tensor, "*batch n"], C: Float[Tensor, "n n"], *, steps: int = 50
) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch"]]:
    """gsoftmax(f) and gLSE(f) (7), by `steps` steps x_i <- x_i / (Kx)_i, a = x / sum x, in logarithms.

    Each step lowers x'Kx / 2 - sum x, whose minimum is along a (Lee & Seung, NIPS 2000: no entry of K is negative); so
    gLSE is a lower bound at any number of steps. exp(-C / 2) must be positive semi-definite, as it is of squared
    distances and of Euclidean ones. Raises ValueError unless there is a step.
    """
    if steps < 1:
        raise ValueError(f"geometric_softmax: steps is {steps}, expected at least one.")
    ln_K = -(f[..., None] + f[..., None, :] + C) / 2
    ln_x = torch.zeros_like(f)
    for _ in range(steps):
        ln_x = ln_x - (ln_K + ln_x[..., None, :]).logsumexp(-1)
    ln_a = ln_x.log_softmax(-1)
    return ln_a.exp(), -(ln_a[..., None] + ln_a[..., None, :] + ln_K).flatten(-2).logsumexp(-1)            # (7)


def geometric_loss(
    f: Float[Tensor, "*batch n"], q: Float[Tensor, "*batch n"], C: Float[Tensor, "n n"], *, steps: int = 50
) -> Float[Tensor, "*batch"]:
    """(8), of scores f for the distribution q over classes with distances C: for one-hot q, gLSE(f) - f_y."""
    _, value = geometric_softmax(f, C, steps=steps)
    return value - (q * f).sum(-1) - sinkhorn(C.expand(*q.shape[:-1], -1, -1), q, q, eps=2.0, steps=steps).cost / 2


def _log(a: Tensor) -> Tensor:
    """ln a, -inf where a is zero, with no derivative there."""
    return torch.where(a > 0, torch.where(a > 0, a, 1.0).log(), -torch.inf)
