"""What the y of a task are: classes, numbers, log-densities, bits. All that depends on it is asked here.

A pool says its target; where there is no pool, or one that says nothing, the tensors tell (`target_of`). A further
target is one class in this file, and its instance in TARGETS. It lies below all parts of the library that ask: the
networks, objectives and learners, the pools, the engine, the recipes, the report and the command line.
"""

import shlex
from collections.abc import Sequence
from math import log
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .core import Info, Scalar, Task


def told(n: Any) -> str:
    """A number of examples; of a range, its ends: 1-5."""
    return "-".join(map(str, n)) if isinstance(n, tuple | list) else str(n)


class Target:
    """What is asked about the y of tasks.

    kind: as run.json says it. numbers: are they numbers, to be regressed? metric: the name of the score; `scale` times
    its mean is in `unit`, whose name for people is `words`. higher: is more of it better?
    """

    kind: str
    numbers: bool = False
    metric: str
    unit: str
    words: str
    scale: float = 1.0
    higher: bool = False

    def sound(self, predicted: Tensor) -> Tensor:
        """Which of the numbers predicted [tasks, n, ...] can be scored: those that are finite."""
        return predicted.isfinite()

    def score(self, predicted: Tensor, y: Tensor) -> Float[Tensor, " tasks"]:
        """Each task's score, of predictions [tasks, n, ...] and y [tasks, n, ...]."""
        raise NotImplementedError

    def loss(self, predicted: Tensor, y: Tensor) -> Scalar:
        """The usual loss of predictions [n, ...] for y [n, ...]."""
        raise NotImplementedError

    def scalars(self, predicted: Tensor, y: Tensor) -> Info:
        """What is worth logging of predictions [n, ...] for y [n, ...], beside the loss."""
        return {}

    def check(self, call: str, part: str, y: Tensor, ways: int) -> None:
        """Raise ValueError unless y is what it should be in tasks of `ways` classes. part: "support" or "query"."""

    def check_answer(self, call: str, answer: Tensor, y: Tensor, ways: int) -> None:
        """Raise ValueError unless a predictor's answer to the queries of one task fits their y."""
        raise NotImplementedError

    def check_ways(self, run: Any, ways: int | None) -> None:
        """Raise ValueError if a run cannot be asked for tasks of so many ways; None asks for nothing."""

    def label(self, ways: int, shots: int) -> str:
        """The name of a row of such tasks."""
        raise NotImplementedError

    def episode(self, ways: int, shots: int, queries: int) -> str:
        """Such tasks in words."""
        raise NotImplementedError

    def queries(self, n: Any) -> str:
        """So many queries in words."""
        raise NotImplementedError

    def examples(self, shape: Sequence[int], classes: int | None) -> str:
        """What is said of a pool's examples behind its name."""
        return ""

    def enough(self, queries: int) -> int:
        """How many of so many queries are enough for a point of a curve."""
        return queries

    def shows(self, shape: Sequence[int]) -> bool:
        """Whether a page can show a task whose examples have that shape."""
        return False

    def show(self, task: Task, answer: Tensor, ways: int) -> dict[str, Any]:
        """A task and the answer to its queries, as a page shows them, in one of two forms: points on a curve,

            support: [[x, y], ...], query: [[x, y, predicted], ...] by x;

        or pictures [C, H, W] by class,

            classes: [{support: [picture, ...], queries: [[picture, predicted class], ...]}, ...], right, of: counts.
        """
        raise NotImplementedError

    def again(self, ways: int) -> str:
        """Options of `metaloop evaluate` for other tasks than a recipe's first, of `ways` classes."""
        return " --shots 10"

    def uses(self, run: str | Path) -> list[str]:
        """Commands by which a run serves on one's own data."""
        return []


class Classes(Target):
    """y int64 [tasks, n]: which of the classes; predicted are scores [tasks, n, classes], the highest decides."""

    kind, metric, higher = "classification", "accuracy", True
    unit = words = "accuracy (%)"
    scale = 100.0

    def sound(self, predicted):
        """A class may be impossible, at a score of -inf, but not all of them."""
        return (predicted < torch.inf) & (predicted > -torch.inf).any(-1, keepdim=True)

    def score(self, predicted, y):
        return (predicted.argmax(-1) == y).float().mean(1)

    def loss(self, predicted, y):
        return F.cross_entropy(predicted, y)

    def scalars(self, predicted, y):
        return {"accuracy": accuracy(predicted.detach(), y)}

    def check(self, call, part, y, ways):
        if y.is_floating_point():
            raise ValueError(
                f"{call}: {part}.y is {y.dtype}, the pool says that y are classes. "
                f"Say otherwise (target = metaloop.targets.NUMBERS), or make them int64."
            )
        if not 0 <= int(y.min()) <= int(y.max()) < ways:
            raise ValueError(
                f"{call}: {part}.y has labels from {int(y.min())} to {int(y.max())}, expected 0..{ways - 1}. "
                f"Relabel per task, or pass ways={int(y.max()) + 1}."
            )

    def check_answer(self, call, answer, y, ways):
        if y.ndim == 1 and (answer.ndim != 2 or len(answer) != len(y)):
            raise ValueError(
                f"{call}: the predictor answers {tuple(answer.shape)} to {len(y)} queries, expected [n, classes]. "
                "Let the network answer with flat features [n, dim] (nn.Flatten)."
            )
        if (known := answer.shape[-1]) < ways:
            raise ValueError(
                f"{call}: the learner tells {known} classes apart, the tasks have {ways}. "
                f"Give it {known} at most, or take a learner made for {ways}."
            )

    def check_ways(self, run, ways):
        if ways == 1:
            raise ValueError("--ways 1: with a single class there is nothing to tell apart. Take at least 2.")

    def label(self, ways, shots):
        return f"{ways}-way {told(shots)}-shot"

    def episode(self, ways, shots, queries):
        return f"{ways} ways, {told(shots)} support and {told(queries)} query examples per class"

    def queries(self, n):
        return f"{told(n)} {'query' if n == 1 else 'queries'} per class"

    def examples(self, shape, classes):
        return f": examples of {'x'.join(map(str, shape))}" + (f", {classes} training classes" if classes else "")

    def enough(self, queries):
        return min(queries, 5)

    def shows(self, shape):
        return len(shape) == 3

    def show(self, task, answer, ways):
        """Of each class the first five support examples, and the first three queries."""
        (x, y), query, guess = task.support[:2], task.query, answer.argmax(-1)
        classes = []
        for k in range(ways):
            queries = (query.y == k).nonzero()[:3, 0]
            classes.append({
                "support": list(x[y == k][:5]), "queries": [[query.x[q], int(guess[q])] for q in queries],
            })
        return {"classes": classes, "right": int((guess == query.y).sum()), "of": len(guess)}

    def again(self, ways):
        return f" --ways {ways} --shots 5"

    def uses(self, run):
        there = shlex.quote(str(run))
        return [f"metaloop adapt {there} FOLDER -o mine.safetensors    (FOLDER: one sub-folder of images per class)"]


class Numbers(Target):
    """y float [tasks, n, ...]: numbers, and predicted are numbers of the same shape."""

    kind, numbers, metric, unit, words = "regression", True, "mse", "mse", "mean squared error"

    def score(self, predicted, y):
        return (predicted - y).square().flatten(1).mean(1)

    def loss(self, predicted, y):
        return F.mse_loss(predicted, y)

    def check_answer(self, call, answer, y, ways):
        if answer.shape != y.shape:
            shapes = f"{tuple(answer.shape)} per task, the targets are {tuple(y.shape)}"
            raise ValueError(f"{call}: the predictor answers {shapes}.")

    def check_ways(self, run, ways):
        if ways not in (None, 1):
            raise ValueError(f"--ways {ways}: {run} is a {self.kind}, which has no classes.")

    def label(self, ways, shots):
        return f"{shots}-shot"

    def episode(self, ways, shots, queries):
        return f"{shots} support and {queries} query points"

    def queries(self, n):
        return f"{n} {'query' if n == 1 else 'queries'}"

    def shows(self, shape):
        return tuple(shape) == (1,)

    def show(self, task, answer, ways):
        (x, y), query = task.support[:2], task.query
        points = torch.cat([query.x[:, :1], query.y[:, :1], answer[:, :1]], 1).tolist()
        return {"support": torch.cat([x[:, :1], y[:, :1]], 1).tolist(), "query": sorted(points)}


class Densities(Numbers):
    """y float [tasks, n, 1]: the log-densities, where they were drawn from, of points x; predicted are f's."""

    metric, unit, words = "excess_nats", "excess_nats", "excess nats"

    def score(self, predicted, y):
        return excess_nats(predicted, y)

    def loss(self, predicted, y):
        return (y - predicted).mean()


class Bits(Numbers):
    """y float [tasks, n, bits]: zeros and ones; predicted are the probabilities of ones. A task is scored by the bits
    that all of its y cost, told by those probabilities: 0 if all is right for sure, n * bits if nothing is known."""

    metric, unit, words = "bits", "bits", "bits per sequence"

    def score(self, predicted, y):
        return F.binary_cross_entropy(predicted, y, reduction="none").flatten(1).sum(1) / log(2)

    def loss(self, predicted, y):
        return F.binary_cross_entropy(predicted, y)


CLASSES, NUMBERS, DENSITIES, BITS = Classes(), Numbers(), Densities(), Bits()
TARGETS: tuple[Target, ...] = (CLASSES, NUMBERS, DENSITIES, BITS)
IN_PER_CENT = {  # further metrics, of classes and of bits
    "alone": "accuracy, ties wrong (%)", "verified": "pairs told right (%)", "exact": "sequences all right (%)",
    "probe": "accuracy of a probe (%)",
}  # fmt: skip


def target_of(y: Tensor, pool: Any = None) -> Target:
    """What y is: as its pool says; where that says nothing, or there is none, classes if integers, else numbers."""
    return getattr(pool, "target", None) or (NUMBERS if y.is_floating_point() else CLASSES)


def of_kind(kind: str) -> Target:
    """The target that run.json calls so. Raises ValueError if there is none."""
    for target in TARGETS:
        if target.kind == kind:
            return target
    raise ValueError(f"there is no kind of tasks {kind!r}. There are: {', '.join({t.kind: 0 for t in TARGETS})}.")


def units(metric: str) -> tuple[float, str, str]:
    """How a mean of a metric is told: times what, its unit, and its name for people. One that is no target's own is
    told as it is."""
    for target in TARGETS:
        if target.metric == metric:
            return target.scale, target.unit, target.words
    if metric in IN_PER_CENT:
        return 100, IN_PER_CENT[metric], IN_PER_CENT[metric]
    return 1, metric, metric.replace("_", " ")


def alone(scores: Tensor, y: Tensor) -> Float[Tensor, " tasks"]:
    """The share of queries whose class alone has the highest of the scores [tasks, n, classes]: ties are wrong."""
    own = scores.gather(-1, y[..., None])
    return ((scores >= own).sum(-1) == 1).float().mean(1)


def verified(scores: Tensor, y: Tensor) -> Float[Tensor, " tasks"]:
    """The share of right answers of scores [tasks, n, classes] to "is this query of that class?", for all pairs of a
    query and a class: above 0 is yes, below is no, 0 is wrong. Half of the pairs are of one class if there are two."""
    yes = y[..., None] == torch.arange(scores.shape[-1], device=y.device)
    return torch.where(yes, scores > 0, scores < 0).float().flatten(1).mean(1)


def information_nats(scores: Tensor, y: Tensor) -> Float[Tensor, " tasks"]:
    """ln N less the cross-entropy of the scores [tasks, n, classes]: nats that a query is known to tell of its class. N
    is how many classes are asked for, 1 + the largest y of a task, however many the learner could tell apart.

    An episode is the InfoNCE bound (`objectives.infonce`): in the mean over tasks of N classes drawn without looking,
    with as many queries of each, it is at most I(query; class), of any predictor that answers each query by itself, as
    under transductive norms none does; and at most ln N. It may be
    above I(query; the examples of its class): the classes of a task differ, so that the others' examples tell too.
    """
    cost = F.cross_entropy(scores.flatten(0, 1), y.flatten(), reduction="none").view(y.shape)
    return (y.amax(1) + 1).to(cost).log() - cost.mean(1)


def exact(predicted: Tensor, y: Tensor) -> Float[Tensor, " tasks"]:
    """Whether all of a task's bits y [tasks, n, bits] are the more probable ones; 0 or 1."""
    return ((predicted > 0.5) == (y > 0.5)).flatten(1).all(1).float()


def excess_nats(predicted: Tensor, y: Tensor) -> Float[Tensor, " tasks"]:
    """The mean over points of the true log-density less the predicted one: an estimate of KL(true | predicted)."""
    return (y - predicted).flatten(1).mean(1)


def accuracy(scores: Float[Tensor, "n ways"], y: Int[Tensor, " n"]) -> Scalar:
    """The share of rows of scores whose largest entry is at y."""
    return (scores.argmax(-1) == y).to(scores.dtype).mean()


def rows_of_numbers(call: str, y: Tensor) -> None:
    """Raise ValueError unless y are numbers of shape [n, out]."""
    if not y.is_floating_point() or y.dim() != 2:
        said = f"{y.dtype} of shape {tuple(y.shape)}"
        raise ValueError(f"{call} is {said}, expected floats [n, out]; classes as one-hot rows.")
