"""Scores as they are kept: RUN/evaluation.json, one entry for each protocol a run was measured under."""

import json
import math
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..engine import Run, Score
from ..engine.batch import first_task, groups
from ..engine.checkpoint import write_bytes
from ..engine.evaluate import check_outputs
from ..engine.lock import Lock
from ..engine.predictor import policies
from ..engine.run import machine, versions
from ..engine.schema import conform, read_json
from ..engine.seeds import generator
from ..recipes.plan import Row
from ..targets import Classes, target_of, units
from ..tasks.pool import Pool
from ..torch_private import pytree
from .calibration import Calibration, Seen, saying

WHOLE = 1000  # tasks of a protocol that says nothing else


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What was measured under one protocol, and how. The fields in their order are the keys in the file; those that a
    file made by an older version lacks are None here, and lacking when it is written again."""

    label: str  # the row's
    metric: str  # "accuracy (%)", "mse", or a name of the recipe's own
    mean: float
    ci95: float | None  # half the width of the 95 % interval over tasks; None for a single task
    published: float | None
    published_ci95: float | None
    ways: int
    shots: int | list[int]  # or the least and the most
    queries: int | list[int]
    tasks: int
    whole: bool | None = None  # were there as many tasks as the protocol asks for?
    seed: int
    split: str
    data: str
    norm: str  # policies of the predictors
    budget: str | None = None
    step: int
    training_seconds: float
    training_tasks_per_second: float | None
    test_tasks_per_second: float | None
    machine: dict[str, Any]
    versions: dict[str, str]
    command: str | None = None
    seen: int | None = None  # test classes that the run was trained on, where there are any
    calibration: Calibration | None = None  # of rows of classes, scored by accuracy

    @property
    def protocol(self) -> tuple:
        """What is asked: of two entries that agree in it, the later stands."""
        n = [tuple(k) if isinstance(k, list | tuple) else k for k in (self.shots, self.queries)]
        asked = (self.label, self.metric, self.ways, *n, self.tasks)
        return *asked, self.seed, self.split, self.data

    def to_json(self) -> dict[str, Any]:
        lacking = {f.name for f in fields(self) if f.default is None and getattr(self, f.name) is None}
        return {name: value for name, value in asdict(self).items() if name not in lacking}


def measure(
    run: Run, row: Row, pool: Pool, *, tasks: int, seed: int, split: str, data: str | None, command: str | None = None,
    seen: int | None = None,
) -> Entry:  # fmt: skip
    """A row's score on tasks from a split of the pool; accuracies are in per cent. command: what asked for it. seen:
    how many of the split's classes the run was trained on.

    tasks: at most so many; the row may say fewer. data: a name for the pool, None for the recipe's own. The published
    score stands beside it if the run was trained on those, too. A row with data of its own is measured on those
    instead of the pool.
    """
    pool = row.data() if row.data is not None else pool
    tasks, own = row.tested(tasks), data is None and run.info.get("data") is None
    learner, answers = (saying(row.learner), Seen()) if calibrated(row, pool) else (row.learner, None)
    began = time.monotonic()
    score = row.score(run, pool, learner=learner, tasks=tasks, seed=seed, split=split, answers=answers)
    seconds = time.monotonic() - began
    mean, ci95, metric = in_units(score)
    return Entry(
        label=row.label, metric=metric, mean=mean, ci95=ci95,
        published=row.published if own else None, published_ci95=row.published_ci if own else None,
        ways=row.ways, shots=row.shots, queries=row.queries, tasks=len(score.per_task),
        whole=pool.tasks is not None or tasks >= row.tested(WHOLE),
        seed=seed, split=split, data=data or pool.name,
        norm=norm(run, row, pool), budget=run.info.get("budget", "full"),
        step=run.step, training_seconds=round(run.seconds, 1),
        training_tasks_per_second=rate(run.step * run.plan.tasks, run.seconds),
        test_tasks_per_second=rate(len(score.per_task), seconds),
        machine=machine(), versions=versions(), command=command, seen=(seen or None) if row.data is None else None,
        calibration=answers.told(seed) if answers else None,
    )  # fmt: skip


def calibrated(row: Row, pool: Pool) -> bool:
    """Whether a row's predictors say p(y | x) of classes, and are scored by the class they choose."""
    return row.metric is None and isinstance(pool.target, Classes) and row.ways > 1


def check(run: Run, row: Row, pool: Pool, split: str = "test") -> None:
    """Raise ValueError, before anything takes long, unless the pool deals a row's tasks and its learner fits them."""
    pool = row.data() if row.data is not None else pool
    episode = {"ways": row.ways, "shots": row.shots, "queries": row.queries}
    task = getattr(pool, split).sample(tasks=1, **episode, generator=generator(0, "check", 0))
    where = pytree.tree_leaves(run.theta)[0].device
    task = pytree.tree_map(lambda t: t.to(where), groups(task)[0][1])
    check_outputs("evaluate", row.learner, run.theta, task, row.ways, target_of(task.query.y, pool))


def in_units(score: Score) -> tuple[float, float | None, str]:
    """Mean, half-width of the interval (None for a single task) and metric, accuracies in per cent."""
    scale, unit, _ = units(score.metric)
    return scale * score.mean, scale * score.ci95 if math.isfinite(score.ci95) else None, unit


def norm(run: Run, row: Row, pool: Pool) -> str:
    """The norm policy of a row's predictors."""
    episode = {"ways": row.ways, "shots": row.shots, "queries": row.queries}
    batch = pool.test.sample(tasks=1, **episode, generator=generator(0, "norm", 0))
    support, where = first_task(groups(batch)[0][1]).support, pytree.tree_leaves(run.theta)[0].device
    support = pytree.tree_map(lambda t: t.to(where), support)
    return ", ".join(sorted(policies(row.learner.adapt(run.theta, support)))) or "none"


def rate(count: int, seconds: float) -> float | None:
    return float(f"{count / seconds:.3g}") if seconds else None


def kept(folder: Path) -> list[Entry]:
    """The entries of a run's evaluation.json. Raises ValueError if it is damaged."""
    path, known = folder / "evaluation.json", {field.name for field in fields(Entry)}
    if not path.exists():
        return []
    try:
        told = conform(read_json(path), list[dict[str, Any]], str(path))
        if unknown := sorted({name for entry in told for name in entry} - known):
            raise ValueError(f"{path} is damaged or of a later version: it says {unknown[0]!r}.")
        return conform(told, list[Entry], str(path))
    except ValueError as error:
        raise ValueError(f"{error} Delete it and evaluate again.") from None


def keep(folder: Path, entries: list[Entry]) -> None:
    """Add entries to a run's evaluation.json; one measured before under the same protocol is replaced."""
    with Lock(folder, ".evaluation.lock", wait=True):
        new, old = ({entry.protocol: entry for entry in some} for some in (entries, kept(folder)))
        told = [entry.to_json() for entry in (old | new).values()]
        write_bytes(folder / "evaluation.json", json.dumps(told, indent=2).encode())


def text(mean: float, ci95: float | None, metric: str) -> str:
    """`98.71 ± 0.05`, `1.13 ± 0.18`."""
    form = ".2f" if metric.endswith("(%)") or 0.1 <= abs(mean) < 100 else ".3g"
    return f"{mean:{form}}" + ("" if ci95 is None else f" ± {ci95:{'.2f' if form == '.2f' else '.2g'}}")
