"""A run's report: report.html, one self-contained file."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..engine import Run
from ..engine.checkpoint import write_bytes
from ..engine.log import read_metrics
from ..engine.run import read_info
from ..recipes import find
from ..targets import Target, units
from ..tasks.pool import Pool
from ..torch_private import pytree
from .findings import find_out, known
from .page import page
from .results import Entry, kept, text
from .svg import Line, chart

BINS = 100  # points of a training curve

__all__ = ["check_readable", "write_report"]


def check_readable(folder: Path) -> None:
    """Raise ValueError, before anything takes long, if a file that a report is made of cannot be read."""
    kept(folder)
    known(folder)
    read_metrics(folder)


def write_report(run: Run, pool: Callable[[], Pool], *, tasks: int) -> Path:
    """Write RUN/report.html from what the folder holds; where that is missing, from tasks of its own pool().

    tasks: how many are tested for each point of a curve; 200 at most.
    """
    assert run.folder is not None
    entries, findings, recipe = kept(run.folder), find_out(run, pool, tasks), find(run.info["recipe"])
    target, own = run.plan.pool.target, run.plan.rows[0].metric
    metric = units(own.__name__)[2] if own else target.words
    html = page(
        recipe.name, f"{recipe.summary[0].upper()}{recipe.summary[1:]}: {recipe.paper}.",
        scores=[_score(target, e) for e in entries], facts=_facts(run, entries), curves=_curves(run),
        findings=findings, each=target.queries(findings["queries"]), published=_published(run, entries),
        metric=metric, costs=_costs(run),
    )  # fmt: skip
    path = run.folder / "report.html"
    write_bytes(path, html.encode())
    return path


def _score(target: Target, e: Entry) -> list[str]:
    published, gap = "–", "–"
    if e.published is not None:
        published = text(e.published, e.published_ci95, e.metric)
        gap = f"{e.mean - e.published:+.2f}"
    where = f"{e.tasks} {e.split} tasks of {e.data}, {target.queries(e.queries)}, norm: {e.norm}"
    return [e.label, text(e.mean, e.ci95, e.metric), published, gap, where]


def _published(run: Run, entries: list[Entry]) -> list[list[float]]:
    """The paper's numbers for the first row's tasks, with as many shots or with others: [[shots, mean], ...]."""
    def kind(e: Entry) -> tuple:
        return e.ways, e.norm, e.metric, e.data, e.split

    label = run.plan.rows[0].label
    first = next((kind(e) for e in entries if e.label == label), None)
    alike = [e for e in entries if kind(e) == first]
    known = [e for e in reversed(alike) if e.published is not None]
    told = {e.shots: e.published or 0.0 for e in known if isinstance(e.shots, int)}  # the first counts
    return [[shots, told[shots]] for shots in sorted(told)]


def _facts(run: Run, entries: list[Entry]) -> list[tuple[str, str]]:
    plan, info = run.plan, run.info
    recipe, pool = find(info["recipe"]), info["pool"]
    parameters = sum(t.numel() for t in pytree.tree_leaves(run.theta))
    target = plan.pool.target
    data = (info.get("data") or pool["name"]) + target.examples(pool["shape"], pool["classes"])
    return [
        ("recipe", f"{recipe.name} ({recipe.paper})"),
        ("learner", recipe.summary),
        ("data", data),
        ("norm at meta-test", ", ".join(dict.fromkeys(e.norm for e in entries)) or "–"),
        ("training tasks", target.episode(plan.ways, plan.shots, plan.queries)),
        ("meta-steps", f"{run.step:,} of {plan.steps:,}, {plan.tasks} {'task' if plan.tasks == 1 else 'tasks'} each"),
        ("parameters", f"{parameters:,}"),
        ("seed", str(info["seed"])),
    ]


def _curves(run: Run) -> list[str]:
    assert run.folder is not None
    lines = read_metrics(run.folder)
    row = run.plan.rows[0]
    loss = [[e["step"], e["loss"]] for e in lines if "loss" in e]
    curves = [chart([Line("training", _thin(loss))], x="meta-step", y="loss")] if loss else []
    judged = [key.removeprefix("val_") for e in lines for key in e if key.startswith("val_") and key != "val_ci95"]
    name = judged[-1] if judged else run.plan.pool.target.metric
    scale, _, metric = units(name)
    train = [[e["step"], scale * e[name]] for e in lines if name in e]
    wide = lambda e: e.get("val_ci95", math.nan)
    held = [
        [e["step"], scale * e[f"val_{name}"], scale * wide(e) if math.isfinite(wide(e)) else 0]
        for e in lines if f"val_{name}" in e
    ]  # fmt: skip
    shown = [Line("training", _thin(train))] if train else []
    shown += [Line(f"validation, {row.label}", held, 1, dots=True)] if held else []
    return [*curves, chart(shown, x="meta-step", y=metric)] if shown else curves


def _thin(points: list[list[float]]) -> list[list[float]]:
    """Means over runs of neighbouring points, so that about BINS are left."""
    size = math.ceil(len(points) / BINS)
    runs = [points[i : i + size] for i in range(0, len(points), size)]
    return [[run[-1][0], sum(p[1] for p in run) / len(run)] for run in runs]


def _many(n: int, thing: str) -> str:
    return f"{n} {thing}" + "s" * (n != 1)


def _costs(run: Run) -> list[tuple[str, str]]:
    assert run.folder is not None
    info: dict[str, Any] = read_info(run.folder)
    machine, versions = info["machine"], info["versions"]
    speed = run.step / run.seconds if run.seconds else 0.0
    gpus = ", ".join(machine["gpus"])
    processes = machine.get("processes", 1)
    shared = f", {processes} processes" if processes > 1 else ""
    return [
        ("wall time", _clock(run.seconds)),
        ("meta-steps", f"{run.step:,}, {speed:.3g} per second"),
        ("tasks", f"{speed * run.plan.tasks:.3g} per second"),
        ("peak memory", ", ".join(f"{kind} {b / 2**20:,.0f} MiB" for kind, b in run.memory.items()) or "not known"),
        (
            "machine",
            f"{machine['cpu']}, {_many(machine['cores'], 'core')}, {_many(machine['threads'], 'thread')}"
            f"{gpus and ', ' + gpus}{shared}",
        ),
        ("versions", ", ".join(f"{name} {version}" for name, version in versions.items())),
    ]


def _clock(seconds: float) -> str:
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
