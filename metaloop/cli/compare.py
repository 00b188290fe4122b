"""Test runs on the same tasks: scores and paired differences."""

from pathlib import Path
from typing import Any

from .console import note, quoted, say, suggest, table, tell
from .data import check_seen, move, pool_of, protocols, rows_asked
from .options import ALLOW_SEEN, DATA, DATA_ROOT, DEVICE, JSON, QUERIES, SEED, SHOTS, TASKS, WAYS, option

OPTIONS = (
    option("runs", nargs="+", metavar="RUN", help="runs' folders; differences are to the first"),
    DATA, DATA_ROOT, DEVICE, WAYS, SHOTS, QUERIES, TASKS, SEED, ALLOW_SEEN,
    option("--out", default="compare.png", metavar="FILE", help="the plot, .png or .html (compare.png)"),
    JSON,
)  # fmt: skip


def run(args) -> None:
    from ..recipes.stored import open_run
    from ..report.compare import drawing, write_plot
    from ..report.results import check, in_units, text

    if Path(args.out).suffix not in (".png", ".html"):
        raise ValueError(f"--out {args.out}: expected a name that ends in .png or .html.")
    drawing()  # before anything is tested
    runs = [open_run(folder) for folder in args.runs]
    shape = runs[0].info["pool"]["shape"]
    for folder, run in zip(args.runs, runs, strict=True):
        if run.info["pool"]["shape"] != shape:
            theirs, ours = ("x".join(map(str, s)) for s in (run.info["pool"]["shape"], shape))
            raise ValueError(f"{folder} was trained on examples of {theirs}, {args.runs[0]} on {ours}.")
    _, pool = pool_of(runs[0], args.data)
    row = rows_asked(runs[0], args)[0]
    episode: dict[str, Any] = {"ways": row.ways, "shots": row.shots, "queries": row.queries}
    rows, scores = [row, *(rows_asked(run, args, like=row)[0] for run in runs[1:])], []
    for run, theirs in zip(runs, rows, strict=True):
        move(run, args.device)
        check(run, theirs, pool)
    line = note if args.json else say
    seen = check_seen(runs, pool, allow=args.allow_seen, say=line)
    protocols(runs)
    for run, theirs in zip(runs, rows, strict=True):
        note(f"testing {run.folder} on {args.tasks} tasks")
        scores.append(theirs.score(run, pool, tasks=args.tasks, seed=args.seed, **episode))
    gaps = [None, *(score - scores[0] for score in scores[1:])]
    metric = in_units(scores[0])[2]
    rows = []
    for folder, run, score, gap, known in zip(args.runs, runs, scores, gaps, seen, strict=True):
        folder = f"{folder} (has seen {known} classes)" if known else folder
        more = "" if gap is None else ("+" if gap.mean > 0 else "") + text(*in_units(gap))
        rows.append([folder, run.info["recipe"], text(*in_units(score)), more or "–"])
    head = ["run", "recipe", metric, f"difference to {args.runs[0]}"]
    if args.json:
        tell(told(args, runs, row, pool, scores, gaps, seen))
    else:
        say(f"{row.label}, {args.tasks} tasks of {pool.name}, seed {args.seed}; ± 95 % interval, differences in pairs")
        table(head, rows)
    write_plot(Path(args.out), args.runs, scores, gaps, title=f"{row.label}, {pool.name}", head=head, rows=rows)
    line(f"plot: {args.out}")
    suggest(f"metaloop evaluate {quoted(args.runs[0])}")


def told(args, runs, row, pool, scores, gaps, seen) -> dict[str, Any]:
    """The table in JSON's terms: scores in the metric's units, differences to the first run, None for it; and what
    measured them."""
    from ..engine.run import machine, versions
    from ..report.results import in_units

    def measured(score) -> dict[str, Any] | None:
        return None if score is None else dict(zip(("mean", "ci95", "metric"), in_units(score), strict=True))

    episode = {"ways": row.ways, "shots": row.shots, "queries": row.queries}
    told = [
        {"run": folder, "recipe": run.info["recipe"], **(measured(score) or {}), "difference": measured(gap),
         "seen": known}
        for folder, run, score, gap, known in zip(args.runs, runs, scores, gaps, seen, strict=True)
    ]  # fmt: skip
    return {"label": row.label, **episode, "tasks": len(scores[0].per_task), "data": pool.name, "seed": args.seed,
            "runs": told, "machine": machine(), "versions": versions()}  # fmt: skip
