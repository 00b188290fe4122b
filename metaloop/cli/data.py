"""The data and the rows that a command is about."""

import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..recipes.data import POOLS
from .console import note, say, scores, tell

ABSENT = object()


def find_pool(recipe, data: str | None, shape=None, split=(0.6, 0.2, 0.2)):
    """The recipe's own data, a data set by name, or a folder or file, whose images take the given shape."""
    from .. import tasks

    if data is None:
        return recipe.data()
    if data in POOLS:
        return getattr(tasks, data)()
    if not Path(data).exists():
        raise ValueError(f"there is no data set, folder or file '{data}'. Data sets: {', '.join(POOLS)}.")
    how = {} if shape is None else {"channels": shape[0], "size": shape[1]}
    return tasks.own(data, split=split, **how)


def pool_of(run, asked: str | None) -> tuple[str | None, Any]:
    """The data a run is tested on and their name, None for the recipe's own: its training data unless asked."""
    from ..recipes import find

    recipe, own = find(run.info["recipe"]), run.info.get("data")
    data = own if asked is None else None if asked == recipe.data_name else asked
    shape = tuple(run.info["pool"]["shape"])
    split = (0.6, 0.2, 0.2) if data == own else None  # of a strange folder no class was trained on
    pool = find_pool(recipe, data, shape if run.plan.pool.pictures else None, split)
    if tuple(pool.shape) != shape or pool.kind != run.info["pool"]["kind"]:
        theirs, ours = "x".join(map(str, pool.shape)), "x".join(map(str, shape))
        raise ValueError(f"{pool.name} has examples of {theirs}, {run.folder} was trained on {ours}.")
    return data, pool


@contextmanager
def advice(data: str | None):
    """A folder of one's own is often too small to meta-train on, and large enough to adapt to."""
    try:
        yield
    except ValueError as error:
        if data is None or data in POOLS or not Path(data).is_dir():
            raise
        adapt = "To learn a few classes from a few pictures, `metaloop adapt` a run that was trained on other data."
        raise ValueError(f"{error} {adapt}") from None


def rows_for(pool, rows, own: bool):
    """The rows that the data can hold. The first must be among them: validation and report stand on it.
    Rows on other data than the recipe's belong to its own data only."""
    fit = []
    for row in rows:
        if row.data is not None:
            fit += [row] if own else []
            continue
        try:
            pool.test.sample(tasks=1, ways=row.ways, shots=row.shots, queries=row.queries)
            fit.append(row)
        except ValueError:
            if not fit:
                raise
            note(f"metaloop: {pool.name} cannot hold {row.label} tasks; left out")
    return fit


def rows_asked(run, args, like=None):
    """The recipe's rows, or those of the ways and shots asked for, which may be none of the paper's."""
    from ..recipes.plan import Row

    plan, target = run.plan, run.plan.pool.target
    ways, shots, queries = args.ways, args.shots, args.queries
    if like is not None:
        ways, shots, queries = like.ways, like.shots, like.queries
    target.check_ways(run.folder, args.ways)
    rows = [
        row for row in plan.rows
        if row.data is None or (like is None and args.data is None)
        if ways in (None, row.ways) and shots in (None, row.shots) and queries in (None, row.queries)
    ]  # fmt: skip
    if rows:
        return rows
    first = plan.rows[0]
    ways, shots, queries = ways or first.ways, shots or first.shots, queries or first.queries
    return [Row(target.label(ways, shots), plan.at_test(ways=ways), ways, shots, queries, metric=first.metric)]


def check_seen(runs, pool, split: str = "test", allow: bool = False, say: Any = say) -> list[int | None]:
    """How many of the split's classes each run was trained on; None where that is not known, which is said.

    Raises ValueError if there are any, unless allowed.
    """
    dealt = getattr(pool, split)
    classes, found = dealt.digests(), []
    if classes is None:
        return [None for _ in runs]
    for run in runs:
        seen = run.info.get("seen")
        met = {*classes} & {*seen.split()} if isinstance(seen, str) else set()
        found.append(len(met) if isinstance(seen, str) else None)
        if not isinstance(seen, str):
            note(f"note: {run.folder} does not say what classes it was trained on; it may have seen {pool.name}'s")
        if not met:
            continue
        names = [name for name, digest in zip(dealt.names or (), classes, strict=False) if digest in met]
        examples = f" ({', '.join(names[:2])}{', ...' if len(names) > 2 else ''})" if names else ""
        told = f"{run.folder} was trained on {len(met)} of the {len(classes)} {split} classes of {pool.name}{examples}"
        if not allow:
            raise ValueError(f"{told}: a score there says nothing of new classes. Pass --allow-seen to have it anyway.")
        say(f"seen: {told}")
    return found


def protocols(runs) -> None:
    """Say in what the data differ that the runs were trained on, where they are of one name: rotations, for one."""
    from ..recipes import find

    def options(run) -> dict[str, Any] | None:
        return getattr(find(run.info["recipe"]).data, "options", None) if run.info.get("data") is None else None

    ours = options(runs[0])
    for run in runs[1:]:
        theirs = options(run)
        if ours is None or theirs is None or run.info["pool"]["name"] != runs[0].info["pool"]["name"]:
            continue
        differ = [name for name in {**ours, **theirs} if ours.get(name, ABSENT) != theirs.get(name, ABSENT)]
        if differ:
            told = lambda known: ", ".join(f"{n}={known.get(n, 'as is')!r}" for n in differ)  # noqa: B023
            note(f"note: {run.folder} was trained with {told(theirs)}, {runs[0].folder}, whose tasks these are, with "
                 f"{told(ours)}")  # fmt: skip


def measured(run, rows, pool, folder: Path, *, as_json: bool = False, **how: Any) -> None:
    """Measure rows, print their scores and keep them: those that there are, whatever stops it."""
    from ..report.results import keep, measure

    if not os.access(folder, os.W_OK):
        note(f"metaloop: {folder} cannot be written to: what is measured is printed, and not kept")
    entries = []
    try:
        for row in rows:
            tasks = row.tested(how["tasks"])
            note(f"testing {row.label} on {min(tasks, pool.tasks or tasks) if row.data is None else tasks} tasks")
            entries.append(measure(run, row, pool, **how))
    finally:
        if entries:
            try:
                if as_json:
                    tell({"run": str(folder), "recipe": run.info["recipe"], "scores": [e.to_json() for e in entries]})
                else:
                    scores(entries)
                if any(e.published is not None for e in entries):
                    otherwise(run)
            finally:  # who reads them may have gone
                keep(folder, entries)


def otherwise(run) -> None:
    """Say in what a run's settings differ from those of the published figures that its scores stand beside."""
    from ..recipes import find
    from ..recipes.plan import tuples

    recipe = find(run.info["recipe"])
    ours = run.info.get("settings") or recipe.settings(run.info["budget"])
    theirs = recipe.settings()
    differ = [f"{n}={theirs[n]} (here {tuples(v)})" for n, v in ours.items() if n in theirs and tuples(v) != theirs[n]]
    if differ:
        note(f"note: published with {', '.join(differ)}")


def image_shape(pool: dict[str, Any], source: str) -> tuple[int, ...]:
    from ..tasks.pool import Outline

    outline = Outline(**pool)
    if not outline.pictures or outline.shape[0] not in (1, 3):
        raise ValueError(f"{source} was not trained on images, but on examples of {'x'.join(map(str, outline.shape))}.")
    return outline.shape


def move(run, device: str) -> None:
    from ..engine.device import choose
    from ..torch_private import pytree

    where = choose(device)
    run.theta = pytree.tree_map(lambda t: t.to(where), run.theta)
