"""How good is F? Its predictors' scores over many unseen tasks, with their uncertainty."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..core import Learner, Task, Theta
from ..nn.functional import at_meta_test
from ..targets import Target, target_of, units
from ..torch_private import pytree
from .batch import chunk_size, chunks, first_task, groups, predict
from .device import choose
from .notebook import table
from .seeds import generator, noise
from .theta import check, not_finite
from .threads import SideBySide, cores
from .trial import explained

if TYPE_CHECKING:
    from ..tasks.pool import Pool

class NoScore(ValueError):
    """Predictors answer numbers that are not finite, which cannot be scored; says of how many tasks."""


BLOCK = 50  # tasks drawn at once; part of the protocol, since each block has a seed of its own


@dataclass(frozen=True)
class Score:
    """The mean over tasks, the half-width of its 95 % confidence interval over tasks, and each task's score.

    ci95 = t s / sqrt(T), with s the sample standard deviation over the T tasks and t the 97.5 % point of Student's
    distribution with T - 1 degrees of freedom (2.09 for 20 tasks, 1.96 for a thousand); nan for a single task. `a - b`
    of two scores on the same tasks is the score of their paired difference.
    """

    mean: float
    ci95: float
    per_task: Tensor
    metric: str = "accuracy"

    @classmethod
    def of(cls, per_task: Tensor, metric: str = "accuracy") -> "Score":
        from scipy.special import stdtrit

        n = len(per_task)
        spread = per_task.double().std().item() if n > 1 else float("nan")
        t = float(stdtrit(n - 1, 0.975)) if n > 1 else float("nan")
        return cls(per_task.double().mean().item(), t * spread / n**0.5, per_task, metric)

    def __sub__(self, other: "Score") -> "Score":
        if len(self.per_task) != len(other.per_task) or self.metric != other.metric:
            raise ValueError("Score: a paired difference needs the same metric on the same tasks.")
        return Score.of(self.per_task - other.per_task, self.metric)

    def __str__(self) -> str:
        scale, unit, _ = units(self.metric)
        if unit.endswith("(%)"):
            return f"{scale * self.mean:.2f} ± {scale * self.ci95:.2f} %"
        return f"{scale * self.mean:.4g} ± {scale * self.ci95:.2g} ({unit})"

    def _repr_html_(self) -> str:
        rows = [("mean ± 95 %", self), ("tasks", len(self.per_task))]
        rows += [("least, most", f"{self.per_task.min().item():.4g}, {self.per_task.max().item():.4g}")]
        return table(f"Score: {self.metric}", rows)


def evaluate(
    learner: Learner,
    theta: Theta,
    pool: "Pool",
    *,
    tasks: int = 1000,
    ways: int = 5,
    shots: int | tuple[int, int] = 1,
    queries: int | tuple[int, int] = 15,
    seed: int = 0,
    split: str = "test",
    metric: Callable[[Tensor, Tensor], Tensor] | None = None,
    chunk: int | None = None,
    device: str | torch.device | None = None,
    answers: Callable[[Tensor, Tensor], None] | None = None,
) -> Score:
    """Score f = F_theta(S) on the queries of `tasks` tasks from a split of the pool.

    The same seed and episode give the same tasks to every learner, so scores can be compared in pairs.
    shots, queries: whole numbers, or ranges such as (1, 5), of pools that deal uneven tasks.
    A pool of fixed tasks is scored on those it has, if they are fewer.
    metric: (predictions [tasks, n, ...], y [tasks, n, ...]) -> [tasks]; unless given, the score of the pool's target
    (`metaloop.targets`): accuracy for classes, mean squared error for numbers. chunk: how many tasks are adapted at
        once; None lets `engine.batch.chunk_size` choose. Scores do not depend on it beyond rounding, but for noise.
    answers: is given what f answers and y, both [tasks, n, ...], some tasks at a time.
    Raises ValueError if theta is another learner's, if the pool cannot deal such tasks, if the predictor does not fit
    their labels, or if the metric gives something else than a number for each task; NoScore (a ValueError) where
    answers or scores are not finite.
    """
    if not isinstance(tasks, Integral) or tasks < 1:
        raise ValueError(f"evaluate: tasks={tasks}, expected a whole number of at least 1.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"evaluate: chunk={chunk}, expected at least 1, or None.")
    if metric is not None and not callable(metric):
        raise ValueError(f"evaluate: metric is {metric!r}, expected a function (predictions, y) -> [tasks].")
    if split not in ("train", "val", "test"):
        raise ValueError(f"evaluate: split={split!r}, expected 'train', 'val' or 'test'.")
    check("evaluate", learner, theta)
    if not_finite(learner, theta):
        raise ValueError("evaluate: theta holds numbers that are not finite.")
    source, scores, name = getattr(pool, split), [], getattr(metric, "__name__", "metric") if metric else ""
    held = pytree.tree_leaves(theta)  # none, if all that it knows is frozen
    where = choose(device) if device else held[0].device if held else torch.device("cpu")
    answer = SideBySide(partial(predict, learner))
    fixed = getattr(source, "tasks", None)
    tasks, size = (min(tasks, fixed), BLOCK if hasattr(source, "at") else fixed) if fixed else (tasks, BLOCK)
    for block, start in enumerate(range(0, tasks, size)):
        if fixed and block:
            batch = source.at(start, start + size)  # type: ignore[attr-defined]
        else:
            batch = source.sample(
                tasks=min(size, fixed or size), ways=ways, shots=shots, queries=queries,
                generator=generator(seed, "test", block),
            )  # fmt: skip
        batch = pytree.tree_map(lambda t: t[: tasks - start].to(where), batch)  # noqa: B023
        if not all(t.isfinite().all() for t in pytree.tree_leaves(batch)):
            raise ValueError(f"evaluate: {source.name} deals tasks with values that are not finite.")
        target = target_of(batch.query.y, source)
        alike = groups(batch)
        for _, some in alike:
            check_labels("evaluate", some, ways, target)
        if block == 0:
            check_outputs("evaluate", learner, theta, alike[0][1], ways, target)
            name = name or target.metric
        with noise(seed, "test noise", block):
            parts = [part for _, some in alike for part in chunks(some, chunk or chunk_size(some, cores()))]
            each, found = answer(theta, parts, spread=batch.query.y.device.type == "cpu"), []
            for predicted, y in zip(each, (part.query.y for part in parts), strict=True):
                if answers is not None:
                    answers(predicted, y)
                found.append(score_each("evaluate", target, predicted, y, metric).cpu())
        order = torch.cat([index for index, _ in alike]).cpu().argsort()
        scores.append(torch.cat(found)[order])
    return Score.of(torch.cat(scores), name)


def score_each(call: str, target: Target, predicted: Tensor, y: Tensor, metric: Callable | None = None) -> Tensor:
    """Each task's score, by the target's own metric unless given one: predicted, y [tasks, n, ...] -> [tasks].

    Raises NoScore, or ValueError if the metric gives something else.
    """
    lost = f"{call}: in {{}} of {len(y)} tasks {{}} (NaN or infinite): no score. Lower the inner learning rate."
    if not (sound := target.sound(predicted).flatten(1).all(1)).all():
        raise NoScore(lost.format(int((~sound).sum()), "f answers numbers that are not finite"))
    if metric is None:
        scores = target.score(predicted, y)
    else:
        name = getattr(metric, "__name__", "metric")
        for n in (1, len(y)):  # of a single task, too: its queries may be as many as there are tasks
            with explained(call, f"metric {name}, of {n} task{'s' * (n > 1)}: "):
                scores = metric(predicted[:n], y[:n])
            if not isinstance(scores, Tensor) or scores.shape != (n,):
                given = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else repr(scores)
                raise ValueError(
                    f"{call}: metric {name} gives {given} for a batch of {n}, expected one number for each task, shape "
                    f"({n},). Take means over all axes but the first."
                )
    if not (sound := scores.isfinite()).all():
        raise NoScore(lost.format(int((~sound).sum()), "the score is not finite"))
    return scores if scores.is_floating_point() else scores.float()


def check_labels(call: str, tasks: Task, ways: int, target: Target | None = None) -> None:
    """Raise ValueError unless y is what the target wants: of classes, labels 0 .. ways-1."""
    for part, y in (("support", tasks.support.y), ("query", tasks.query.y)):
        (target or target_of(y)).check(call, part, y, ways)


def check_outputs(
    call: str, learner: Learner, theta: Theta, tasks: Task, ways: int, target: Target | None = None
) -> None:
    """Raise ValueError unless predictors answer what the target wants: scores of `ways` classes, numbers shaped like y.

    It is asked of the first task with all labels 0, since a label beyond what the learner knows is not an error
    in every operation of torch.
    """
    support, query = first_task(tasks)
    y = support.y
    with torch.no_grad(), at_meta_test(), explained(call):
        answer = learner.adapt(theta, support._replace(y=torch.zeros_like(y)))(query.x)
    if not isinstance(answer, Tensor):
        wanted = "a tensor, one row for each query"
        raise ValueError(f"{call}: the predictor answers a {type(answer).__name__}, expected {wanted}.")
    (target or target_of(y)).check_answer(call, answer, query.y, ways)
