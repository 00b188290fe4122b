"""What a report shows beyond the scores: accuracy by shots and by inner steps, three tasks with predictions, and what
predictors that are densities draw."""

import base64
import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import torch
from torch import Tensor

from ..core import Learner, Task
from ..engine import Run, evaluate
from ..engine.batch import first_task, predict
from ..engine.checkpoint import write_bytes
from ..engine.seeds import generator, noise
from ..recipes.plan import Row
from ..tasks.pool import Pool
from ..torch_private import pytree
from .results import in_units

TASKS = 200  # at most, for each point of a curve
SHOWN = 3  # tasks, and queries of a class
GIVEN, DRAWN = 5, 10  # pictures that a density is given, and that it draws


def find_out(run: Run, own: Callable[[], Pool], tasks: int) -> dict[str, Any]:
    """The findings on test tasks of a run's own pool, kept in RUN/report.json as long as the weights stay."""
    path = run.folder / "report.json" if run.folder else None
    if path is not None and path.exists():
        kept = json.loads(path.read_text())
        if kept["step"] == run.step:
            return kept
    row, at_test, pool = run.plan.rows[0], run.plan.at_test, own()
    tasks = row.tested(min(tasks, TASKS))
    queries = min(row.queries, 5) if pool.kind == "classification" else row.queries
    each = sorted({*run.plan.more_shots, row.shots}) if run.plan.more_shots else []
    shots = [_point(run, at_test(ways=row.ways), row, pool, tasks, k, queries) for k in each]
    steps = [
        _point(run, at_test(ways=row.ways, inner_steps=k), row, pool, tasks, row.shots, queries, x=k)
        for k in run.plan.inner_steps
    ]
    found = {
        "step": run.step, "label": row.label, "queries": queries, "tasks": tasks,
        "shots": [p for p in shots if p], "inner_steps": [p for p in steps if p],
        "examples": _examples(run, row, pool), "drawn": _drawn(run, row, pool),
    }  # fmt: skip
    if path is not None:
        write_bytes(path, json.dumps(found).encode())
    return found


def _point(run: Run, learner: Learner, row: Row, pool: Pool, tasks: int, shots: int, queries: int, x: int = 0):
    """[x, mean, ci95], or None where the data hold no such tasks, or the inner steps diverge."""
    episode: dict[str, Any] = {"ways": row.ways, "shots": shots, "queries": queries}
    try:
        pool.test.sample(tasks=1, **episode, generator=generator(0, "check", 0))
    except ValueError:
        return None
    mean, ci95, _ = in_units(evaluate(learner, run.theta, pool, tasks=tasks, metric=row.metric, **episode))
    return [x or shots, mean, ci95] if ci95 is not None else None


def _examples(run: Run, row: Row, pool: Pool) -> list[dict[str, Any]]:
    """Tasks that a page can show: of images, or of one number on one number."""
    if pool.kind == "regression" and tuple(pool.shape) != (1,):
        return []
    where = pytree.tree_leaves(run.theta)[0].device
    episode = {"ways": row.ways, "shots": row.shots, "queries": row.queries}
    tasks = pool.test.sample(tasks=SHOWN, **episode, generator=generator(0, "shown", 0))
    tasks = pytree.tree_map(lambda t: t.to(where), tasks)
    answers = predict(row.learner, run.theta, tasks).cpu()
    each = [pytree.tree_map(lambda t: t[i].cpu(), tasks) for i in range(SHOWN)]  # noqa: B023
    show = _curve if pool.kind == "regression" else _classes
    return [show(task, answer, row.ways) for task, answer in zip(each, answers, strict=True)]


def _drawn(run: Run, row: Row, pool: Pool) -> list[dict[str, Any]]:
    """Pictures of each class of a test task, and what f draws for it, if f has `sample`: (n) -> [n, ways, C, H, W]."""
    if len(pool.shape) != 3:
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


def _curve(task: Task, answer: Tensor, ways: int) -> dict[str, Any]:
    (x, y), query = task.support[:2], task.query
    rows = zip(query.x[:, 0].tolist(), query.y[:, 0].tolist(), answer[:, 0].tolist(), strict=True)
    return {"support": [list(p) for p in zip(x[:, 0].tolist(), y[:, 0].tolist(), strict=True)], "query": sorted(rows)}


def _classes(task: Task, answer: Tensor, ways: int) -> dict[str, Any]:
    """For each class its support images, and its first queries with the class that was predicted."""
    (x, y), query = task.support[:2], task.query
    guess = answer.argmax(-1)
    classes = []
    for k in range(ways):
        queries = (query.y == k).nonzero()[:SHOWN, 0]
        classes.append({
            "support": [_image(image) for image in x[y == k][:5]],
            "queries": [[_image(query.x[q]), int(guess[q])] for q in queries],
        })
    return {"classes": classes, "right": int((guess == query.y).sum()), "of": len(guess)}


def _image(x: Tensor) -> str:
    """x [C, H, W] in [0, 1] as a data address: PNG if grey, JPEG if in colour."""
    from PIL import Image

    pixels = (x * 255).round().byte().permute(1, 2, 0).numpy()
    kind = "png" if pixels.shape[2] == 1 else "jpeg"
    buffer = BytesIO()
    Image.fromarray(pixels.squeeze(2) if kind == "png" else pixels).save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
