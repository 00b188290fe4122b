"""Bounds of mutual information, and what an episode is worth in nats
Poole, Ozair, van den Oord, Alemi & Tucker, On Variational Bounds of Mutual Information, ICML 2019, arXiv:1905.06922

A batch of K pairs (x_i, y_i) has scores f[i, j] = f(x_j, y_i): pairs lie on the diagonal, a row is one y beside every
x, and what is off the diagonal stands for draws of p(x) p(y). In nats; a mean over batches is meant on the right.

    BA        I >= H(Y) + E ln q(y|x)                         I <= E ln p(y|x) / r(y)                         (1)
    DV        I >= E_joint f - ln E_product e^f               by a batch's own mean: no bound of either side  (2)
    TUBA      I >= 1 + E_joint [f - ln a(y)] - E_product e^f / a(y)                                           (3)
    NWJ       (3) with a = e:                                 best f = 1 + ln p(y|x) / p(y)                   (4)
    InfoNCE   I >= E 1/K sum_i ln e^f[i,i] / (1/K sum_j e^f[i,j])  <=  ln K                                   (5)
    I_alpha   (3) with a(y_i) = alpha mean_{l /= j} e^f[i,l] + (1 - alpha) q(y_i),  j the x that is left out  (6)
                                                              <=  1 + ln (K - 1) / alpha
    (1) with r(y_i) = mean_{j /= i} p(y_i|x_j)                above I, in the mean                            (7)

A few-shot episode is (5): of N classes, each shown by examples, one is the query's. See `targets.information_nats`.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Scalar

Scores = Float[Tensor, "K K"]


def ba(log_q: Float[Tensor, " n"], entropy: float | Tensor) -> Scalar:
    """(1), from below: ln q(y|x) of n pairs, for any conditional density q, and H(Y), which must be known."""
    return entropy + log_q.mean()


def ba_upper(log_p: Float[Tensor, " n"], log_r: Float[Tensor, " n"]) -> Scalar:
    """(1), from above: ln p(y|x), which must be known, and ln r(y) for any density r, of n pairs."""
    return (log_p - log_r).mean()


def leave_one_out(log_p: Scores) -> Scalar:
    """(7): log_p[i, j] = ln p(y_i|x_j), which must be known. Raises ValueError as `infonce`."""
    return (log_p.diagonal() - _apart("leave_one_out", log_p).logsumexp(1) + math.log(len(log_p) - 1)).mean()


def dv(f: Scores) -> Scalar:
    """(2), Donsker & Varadhan's, the product's expectation being the batch's: its mean over batches may be above I.
    Raises ValueError as `infonce`."""
    K = len(f)
    return f.diagonal().mean() - _apart("dv", f).flatten().logsumexp(0) + math.log(K * (K - 1))


def tuba(f: Scores, log_a: Float[Tensor, " K"] | float) -> Scalar:
    """(3): log_a = ln a(y_i), for any positive a. Raises ValueError as `infonce`."""
    log_a = torch.as_tensor(log_a, dtype=f.dtype, device=f.device).expand(len(f))
    product = (_apart("tuba", f) - log_a[:, None]).exp().sum() / (len(f) * (len(f) - 1))
    return 1 + (f.diagonal() - log_a).mean() - product


def nwj(f: Scores) -> Scalar:
    """(4), of Nguyen, Wainwright & Jordan: unbiased for its bound, of a variance that grows like e^I. Raises ValueError
    as `infonce`."""
    return tuba(f, 1.0)


def infonce(f: Scores) -> Scalar:
    """(5), of van den Oord, Li & Vinyals 2018 (arXiv:1807.03748): of little variance, never above ln K.

    Raises ValueError unless f is square, of two pairs at least.

    >>> infonce(20 * torch.eye(4)) / math.log(4)
    tensor(1.)
    """
    _square("infonce", f)
    return (f.diagonal() - f.logsumexp(1)).mean() + math.log(len(f))


def interpolated(f: Scores, alpha: float, log_q: Float[Tensor, " K"] | float = 0.0) -> Scalar:
    """(6): InfoNCE with one x less at alpha = 1, (3) with a = q at alpha = 0; bias for variance in between.

    log_q: ln q(y_i); best are f = ln p(y|x) + c(y) with q(y) = p(y) e^c(y). Raises ValueError unless 0 <= alpha <= 1,
    or as `infonce`.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"interpolated: alpha is {alpha}, expected 0 to 1.")
    _square("interpolated", f)
    K, log_q = len(f), torch.as_tensor(log_q, dtype=f.dtype, device=f.device).expand(len(f))[:, None]
    if alpha == 0:
        return tuba(f, log_q[:, 0])
    log_a = _without_each(f) - math.log(K - 1) + math.log(alpha)
    if alpha < 1:
        log_a = torch.logaddexp(log_a, log_q + math.log(1 - alpha))
    others = ~torch.eye(K, dtype=torch.bool, device=f.device)
    joint = ((f.diagonal()[:, None] - log_a) * others).sum() / (K * (K - 1))
    product = _apart("interpolated", f - log_a.diagonal()[:, None]).exp().sum() / (K * (K - 1))
    return 1 + joint - product


def _square(call: str, f: Tensor) -> None:
    if f.ndim != 2 or f.shape[0] != f.shape[1] or len(f) < 2:
        raise ValueError(f"{call}: the scores are {tuple(f.shape)}, expected [K, K], of two pairs at least.")


def _apart(call: str, f: Scores) -> Scores:
    """f with its diagonal at -inf."""
    _square(call, f)
    return f.masked_fill(torch.eye(len(f), dtype=torch.bool, device=f.device), -torch.inf)


def _without_each(f: Scores) -> Scores:
    """[i, j]: ln of the sum over l /= j of e^f[i,l], from the sums before j and behind it, so that nothing cancels."""
    none = f.new_full((len(f), 1), -torch.inf)
    before = torch.cat([none, f[:, :-1].logcumsumexp(1)], 1)
    behind = torch.cat([f[:, 1:].flip(1).logcumsumexp(1).flip(1), none], 1)
    return torch.logaddexp(before, behind)
