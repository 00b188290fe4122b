"""What a report shows beyond the scores: accuracy by shots and by inner steps, three tasks with predictions, and what
predictors that are densities draw."""

import base64
import json
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Data, Learner, Task
from ..engine import Run
from ..engine.batch import chunk_size, chunks, first_task, predict
from ..engine.checkpoint import write_bytes
from ..engine.schema import conform, read_json
from ..engine.seeds import generator, noise
from ..recipes.plan import Row
from ..tasks.pool import Pool
from ..torch_private import pytree
from .calibration import Seen, auroc, ece, nll, reliability, saying, temperature, top
from .results import calibrated, in_units

TASKS = 200  # at most, for each point of a curve
SHOWN = 3  # tasks
GIVEN, DRAWN = 5, 10  # pictures that a density is given, and that it draws


@dataclass
class _OfClass:
    support: list[str]
    queries: list[list[str | int]]

    def __post_init__(self):
        pairs = [[type(part) for part in pair] for pair in self.queries]
        if not all(pair == [str, int] for pair in pairs):
            raise ValueError("a query is no picture with a class")
        _check_pictures([*self.support, *(str(pair[0]) for pair in self.queries)])


@dataclass
class _Pictures:
    classes: list[_OfClass]
    right: int
    of: int


@dataclass
class _Points:
    support: list[list[float]]
    query: list[list[float]]

    def __post_init__(self):
        _check_points(self.support, 2)
        _check_points(self.query, 3)


@dataclass
class _Drawn:
    given: list[str]
    drawn: list[str]

    def __post_init__(self):
        _check_pictures([*self.given, *self.drawn])


@dataclass
class _Sure:
    """How sure f is, and whether it should be: see `report.calibration`. bins: [mean of the largest p, share that is
    right, queries]. cooled: the same at the temperature, which was found on tasks of another split."""

    bins: list[list[float]]
    nll: float
    ece: float
    ece_null_high: float
    temperature: float | None
    fitted_on: str
    cooled_nll: float | None
    cooled_ece: float | None
    auroc: float | None  # of queries of the task's classes over those of another, by the largest p

    def __post_init__(self):
        _check_points(self.bins, 3)


@dataclass
class Findings:
    """What report.json says."""

    step: int
    label: str
    queries: int
    tasks: int
    shots: list[list[float]]
    inner_steps: list[list[float]]
    examples: list[_Pictures] | list[_Points]
    drawn: list[_Drawn] = field(default_factory=list)
    sure: _Sure | None = None

    def __post_init__(self):
        _check_points([*self.shots, *self.inner_steps], 3)


def _check_points(points: list[list[float]], numbers: int) -> None:
    if any(len(point) != numbers for point in points):
        raise ValueError(f"a point has not {numbers} numbers")


def _check_pictures(addresses: list[str]) -> None:
    if not all(re.fullmatch(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=]*", address) for address in addresses):
        raise ValueError("a picture is none")


def known(folder: Path) -> dict[str, Any] | None:
    """What report.json says, if there is one. Raises ValueError if it is damaged."""
    path = folder / "report.json"
    if not path.exists():
        return None
    try:
        found = read_json(path)
        conform(found, Findings, str(path))
    except ValueError as error:
        raise ValueError(f"{error} Delete it: it is made anew.") from None
    return found


def find_out(run: Run, own: Callable[[], Pool], tasks: int) -> dict[str, Any]:
    """The findings on test tasks of a run's own pool, kept in RUN/report.json as long as the weights stay."""
    kept = known(run.folder) if run.folder else None
    if kept is not None and kept["step"] == run.step:
        return kept
    row, at_test, pool = run.plan.rows[0], run.plan.at_test, own()
    tasks = row.tested(min(tasks, TASKS))
    queries = pool.target.enough(row.queries)
    each = sorted({*run.plan.more_shots, row.shots}) if run.plan.more_shots else []
    shots = [_point(run, at_test(ways=row.ways), row, pool, tasks, k, queries) for k in each]
    steps = [
        _point(run, at_test(ways=row.ways, inner_steps=k), row, pool, tasks, row.shots, queries, x=k)
        for k in run.plan.inner_steps
    ]
    found = {
        "step": run.step, "label": row.label, "queries": queries, "tasks": tasks,
        "shots": [p for p in shots if p], "inner_steps": [p for p in steps if p],
        "examples": _examples(run, row, pool), "drawn": _drawn(run, row, pool), "sure": _sure(run, row, pool, tasks),
    }  # fmt: skip
    if run.folder is not None:
        write_bytes(run.folder / "report.json", json.dumps(found).encode())
    return found


def _point(run: Run, learner: Learner, row: Row, pool: Pool, tasks: int, shots: int, queries: int, x: int = 0):
    """[x, mean, ci95], or None where the data hold no such tasks, or the inner steps diverge."""
    episode: dict[str, Any] = {"ways": row.ways, "shots": shots, "queries": queries}
    try:
        pool.test.sample(tasks=1, **episode, generator=generator(0, "check", 0))
    except ValueError:
        return None
    mean, ci95, _ = in_units(row.score(run, pool, learner=learner, tasks=tasks, **episode))
    return [x or shots, mean, ci95] if ci95 is not None else None


def _examples(run: Run, row: Row, pool: Pool) -> list[dict[str, Any]]:
    """Tasks, where a page can show them; pictures as data addresses."""
    if not pool.target.shows(pool.shape):
        return []
    where = pytree.tree_leaves(run.theta)[0].device
    episode = {"ways": row.ways, "shots": row.shots, "queries": row.queries}
    tasks = pool.test.sample(tasks=SHOWN, **episode, generator=generator(0, "shown", 0))
    tasks = pytree.tree_map(lambda t: t.to(where), tasks)
    answers = predict(row.learner, run.theta, tasks).cpu()
    each = [pytree.tree_map(lambda t: t[i].cpu(), tasks) for i in range(SHOWN)]  # noqa: B023
    shown = [pool.target.show(task, answer, row.ways) for task, answer in zip(each, answers, strict=True)]
    return pytree.tree_map(lambda part: _image(part) if isinstance(part, Tensor) else part, shown)


def _drawn(run: Run, row: Row, pool: Pool) -> list[dict[str, Any]]:
    """Pictures of each class of a test task, and what f draws for it, if f has `sample`: (n) -> [n, ways, C, H, W]."""
    if not pool.pictures:
        return []
    try:
        task = pool.test.sample(tasks=1, ways=row.ways, shots=GIVEN, queries=1, generator=generator(0, "drawn", 0))
    except ValueError:  # too few examples of a class
        return []
    where = pytree.tree_leaves(run.theta)[0].device
    S = pytree.tree_map(lambda t: t.to(where), first_task(task).support)
    with torch.no_grad(), noise(0, "drawn", 1):
        f = row.learner.adapt(run.theta, S)
        if not hasattr(f, "sample"):
            return []
        drawn = f.sample(DRAWN).clamp(0, 1).cpu()
    return [
        {"given": [_image(x) for x in S.x[S.y == k].cpu()], "drawn": [_image(x) for x in drawn[:, k]]}
        for k in range(row.ways)
    ]


def _sure(run: Run, row: Row, pool: Pool, tasks: int) -> dict[str, Any] | None:
    """`_Sure` of a row, where its predictors say p(y | x). The temperature is found on validation tasks."""
    if not calibrated(row, pool):
        return None
    learner, asked = saying(row.learner), {"tasks": tasks, "queries": pool.target.enough(row.queries)}
    tested, held = Seen(), Seen()
    row.score(run, pool, learner=learner, answers=tested, **asked)
    known = tested.told()
    if known is None:
        return None
    t, other, (scores, y) = None, pool.val.split if pool.val is not pool.test else "", tested.flat()
    if other:
        with suppress(ValueError):  # too few classes, or examples
            row.score(run, pool, learner=learner, answers=held, split="val", **asked)
            t = temperature(*held.flat())
    cooled = None if t is None else scores / t
    return {
        "bins": reliability(*top(scores, y)), "nll": known.nll, "ece": known.ece, "ece_null_high": known.ece_null_high,
        "temperature": t, "fitted_on": other, "cooled_nll": None if cooled is None else nll(cooled, y),
        "cooled_ece": None if cooled is None else ece(*top(cooled, y)),
        "auroc": strangers(learner, run, row, pool, asked["tasks"], asked["queries"]),
    }  # fmt: skip


def strangers(learner: Learner, run: Run, row: Row, pool: Pool, tasks: int, queries: int) -> float | None:
    """The AUROC of known queries over those of a class of which S shows nothing, by the largest p."""
    try:
        batch = pool.test.sample(
            tasks=tasks, ways=row.ways + 1, shots=row.shots, queries=queries, generator=generator(0, "strangers", 0)
        )
    except ValueError:  # there is no further class, or tasks are fixed
        return None
    (x, y), query = batch.support[:2], batch.query
    seen = (y == row.ways).long().argsort(dim=1, stable=True)[:, : row.ways * row.shots]
    S = Data(torch.stack([t[i] for t, i in zip(x, seen, strict=True)]), y.gather(1, seen))
    where = pytree.tree_leaves(run.theta)[0].device
    both = pytree.tree_map(lambda t: t.to(where), Task(S, query))
    size = run.plan.options.get("chunk") or chunk_size(both)
    with noise(0, "strangers", 1):
        sure = torch.cat([predict(learner, run.theta, part).softmax(-1).amax(-1).cpu() for part in chunks(both, size)])
    stranger = query.y.cpu() == row.ways
    return auroc(sure[~stranger], sure[stranger])


def _image(x: Tensor) -> str:
    """x [C, H, W] in [0, 1] as a data address: PNG if grey, JPEG if in colour."""
    from PIL import Image

    pixels = (x * 255).round().byte().permute(1, 2, 0).numpy()
    kind = "png" if pixels.shape[2] == 1 else "jpeg"
    buffer = BytesIO()
    Image.fromarray(pixels.squeeze(2) if kind == "png" else pixels).save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
