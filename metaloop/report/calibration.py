"""Are predictors as sure as they should be? Measures of p(y | x), a temperature, ensembles.

    NLL    = mean of -ln p_y, in nats a query                     Brier = mean of |p - e_y|^2, 0 .. 2
    ECE    = sum over bins b of n_b / n |right_b - sure_b|        of the largest p_k, in 15 bins of equal width
    T      = argmin of the NLL of softmax(scores / T)             found on tasks of other classes than are tested
    p      = mean over members of p_m                             an ensemble: theta holds a stack of thetas
    AUROC  = P(max p of a known query > max p of a stranger's)    a stranger's class is not in the task

ECE is above 0 for a calibrated predictor too, since bins are finite: `ece_null` draws what it would be, every top class
right with its own probability, each for itself. NLL and Brier of a mean of p are at most the means of theirs (Jensen).
Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599; Lakshminarayanan, Pritzel & Blundell 2017, arXiv:1612.01474.

Scores are [n, ways], their softmax p; y int64 [n].
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import vmap

from ..core import Data, Learner, Task, Theta, predictor
from ..engine.evaluate import Score
from ..targets import information_nats
from ..torch_private import pytree

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Of a row's queries: NLL and the information ln ways - NLL in nats, Brier's score, ECE as a share, and what ECE a
    calibrated predictor of the same confidences would have, in the mean and in 97.5 % of draws at most."""

    nll: float
    nll_ci95: float | None
    information: float
    brier: float
    ece: float
    ece_null: float
    ece_null_high: float


class Seen:
    """What `evaluate(answers=...)` is told: the scores [tasks, n, ways] and y [tasks, n] of all tasks, part by part."""

    def __init__(self):
        self.parts: list[tuple[Tensor, Tensor]] = []

    def __call__(self, scores: Tensor, y: Tensor) -> None:
        self.parts.append((scores.detach().cpu().float(), y.cpu()))

    def flat(self) -> tuple[Tensor, Tensor]:
        """Of all queries: scores [n, ways], y [n]."""
        return torch.cat([s.flatten(0, 1) for s, _ in self.parts]), torch.cat([y.flatten() for _, y in self.parts])

    def told(self, seed: int = 0) -> Calibration | None:
        """None where a true class is called impossible: NLL is infinite then."""
        scores, y = self.flat()
        if not math.isfinite(nll(scores, y)):
            return None
        nats = Score.of(torch.cat([information_nats(*part) for part in self.parts]))
        sure, right = top(scores, y)
        chance = ece_null(sure, seed=seed)
        return Calibration(
            nll(scores, y), nats.ci95 if math.isfinite(nats.ci95) else None, nats.mean, brier(scores, y),
            ece(sure, right), *chance,
        )  # fmt: skip


def nll(scores: Tensor, y: Tensor) -> float:
    return F.cross_entropy(scores.double(), y).item()


def brier(scores: Tensor, y: Tensor) -> float:
    p = scores.double().softmax(1)
    return (p - F.one_hot(y, p.shape[1])).square().sum(1).mean().item()


def top(scores: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The largest p_k, and whether k is right, [n] each."""
    sure, k = scores.double().softmax(1).max(1)
    return sure, k == y


def ece(sure: Tensor, right: Tensor, bins: int = BINS) -> float:
    """sure: the largest p_k in [0, 1], right: whether k is, [n] each.

    >>> ece(torch.tensor([0.75, 0.75, 0.5, 0.5]), torch.tensor([True, False, True, True]))
    0.375
    """
    return sum(n * abs(share - mean) for mean, share, n in reliability(sure, right, bins)) / len(sure)


def reliability(sure: Tensor, right: Tensor, bins: int = BINS) -> list[list[float]]:
    """[mean of sure, share of right, how many] of every bin that is not empty."""
    place = _bin(sure, bins)
    count, means, shares = (torch.bincount(place, w.double(), bins) for w in (torch.ones_like(sure), sure, right))
    there = count > 0
    return torch.stack([means[there] / count[there], shares[there] / count[there], count[there]], 1).tolist()


def ece_null(sure: Tensor, bins: int = BINS, draws: int = 100, seed: int = 0) -> tuple[float, float]:
    """The ECE where each top class is right with probability `sure`: mean and 97.5 % point over draws."""
    place, sure = _bin(sure, bins), sure.double()
    means, g = torch.bincount(place, sure, bins), torch.Generator().manual_seed(seed)
    found = []
    for _ in range(draws):
        right = (torch.rand(len(sure), generator=g, dtype=torch.float64) < sure).double()
        found.append((torch.bincount(place, right, bins) - means).abs().sum() / len(sure))
    each = torch.stack(found)
    return each.mean().item(), each.quantile(0.975).item()


def _bin(sure: Tensor, bins: int) -> Tensor:
    return (sure * bins).long().clamp(0, bins - 1)


def temperature(scores: Tensor, y: Tensor) -> float:
    """The T of least NLL, from 0.01 to 100, to 6 digits of ln T. (As a function of 1 / T the NLL is convex.)

    Raises ValueError where a true class is called impossible, which no T changes.
    """
    from scipy.optimize import minimize_scalar

    if not math.isfinite(nll(scores, y)):
        raise ValueError("temperature: a true class has probability 0, or there are no queries: no T has a finite NLL.")

    cost = lambda log_t: nll(scores / math.exp(log_t), y)
    ends = (math.log(0.01), math.log(100))
    found: Any = minimize_scalar(cost, bounds=ends, method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x)


def auroc(known: Tensor, unknown: Tensor) -> float:
    """How often one of known [n] is above one of unknown [m]; a tie counts half.

    >>> auroc(torch.tensor([0.9, 0.5]), torch.tensor([0.5, 0.1]))
    0.875
    """
    order = unknown.sort().values
    below, at_most = (torch.searchsorted(order, known.contiguous(), right=right).double() for right in (False, True))
    return ((below + at_most) / 2).mean().item() / len(order)


@predictor
class LogProbabilities:
    """ln of what f says of probabilities."""

    f: Any

    def __call__(self, x: Tensor) -> Tensor:
        p = self.f.probabilities(x)
        return (p / p.sum(-1, keepdim=True)).log()


def saying(learner: Learner) -> Learner:
    """The same learner, whose f answers ln p where it offers probabilities(x) that are no softmax of f(x)."""

    def adapt(theta: Theta, S: Data) -> Any:
        f = learner.adapt(theta, S)
        return LogProbabilities(f) if hasattr(f, "probabilities") else f

    return replace(learner, adapt=adapt)


@predictor
class Ensemble:
    """ln of the mean of p over predictors f, which are stacked."""

    f: Any

    def __call__(self, x: Tensor) -> Tensor:
        log_p = vmap(lambda f: f(x).log_softmax(-1), randomness="different")(self.f)
        return log_p.logsumexp(0) - math.log(len(log_p))


def ensemble(learner: Learner, members: int) -> Learner:
    """A learner of classes whose theta is a stack of `members` thetas, each started by a seed of its own and trained by
    its own loss: F makes a predictor of each, and p is the mean of theirs. `stack` makes such a theta of trained ones.

    Raises ValueError for less than one member.
    """
    if members < 1:
        raise ValueError(f"ensemble: members is {members}, expected at least 1.")
    said, statistics, scheduled = saying(learner), learner.statistics, learner.scheduled

    def adapt(theta: Theta, S: Data) -> Ensemble:
        return Ensemble(vmap(said.adapt, (0, None), randomness="different")(theta, S))

    def objective(adapt, theta: Theta, task: Task):
        each = vmap(lambda one: learner.objective(learner.adapt, one, task), randomness="different")
        return pytree.tree_map(lambda t: t.mean(0), each(theta))

    def same(part: Theta) -> Theta:
        return pytree.tree_map(lambda t: t.expand(members, *t.shape), part)

    return replace(
        learner, init=lambda seed: stack([learner.init(members * seed + m) for m in range(members)]),
        adapt=adapt, objective=objective,
        statistics=None if statistics is None else lambda theta, seen: vmap(statistics, (0, None))(theta, seen),
        scheduled=None if scheduled is None else lambda step: same(scheduled(step)),
    )  # fmt: skip


def stack(thetas: list[Theta]) -> Theta:
    """The theta of an ensemble of these."""
    return pytree.tree_map(lambda *each: torch.stack(each), *thetas)
