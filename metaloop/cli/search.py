"""Search for a recipe's settings on validation tasks, test the best once."""

import os
import shlex
from pathlib import Path
from typing import Any

from .console import note, quoted, say, suggest
from .data import advice, find_pool, measured, rows_for
from .options import DATA, DATA_ROOT, DEVICE, TASKS, count, option, seed

SAMPLERS = ("tpe", "random", "grid", "gp", "evolution")
OPTIONS = (
    option("recipe", metavar="RECIPE", help="see `metaloop recipes`"),
    option("--space", action="append", default=[], metavar="NAME=...", help="what may be chosen: 1,2,5 or 1e-3..1:log"),
    option("--sampler", choices=SAMPLERS, default="tpe", help="what proposes (tpe)"),
    option("--trials", type=count, default=20, metavar="N", help="in all, over all workers (20)"),
    option("--prune", action="store_true", help="stop testing a trial that is worse than the best, by tasks in pairs"),
    option("--storage", metavar="FILE|URL", help="a journal file (OUT/search.journal), or postgresql://user@host/name"),
    option("--name", help="of the search in its storage (RECIPE)"),
    option("--adopt", action="store_true", help="take up trials of workers on machines that are gone"),
    option("--validation-tasks", type=count, default=200, metavar="N", help="that a trial is judged on (200)"),
    DATA, DATA_ROOT, DEVICE,
    option("--seed", type=seed, default=0, help="of weights, tasks and draws (0)"),
    option("--budget", choices=("smoke", "quick", "full"), default="full", help="of each trial (full)"),
    option("--steps", type=count, metavar="N", help="meta-steps of each trial, if not as the budget says"),
    option("--out", metavar="DIR", help="where trials lie (runs/search-RECIPE)"), TASKS,
)  # fmt: skip


def run(args) -> None:
    from ..engine.lock import Lock
    from ..outer.search import in_words, search
    from ..recipes import find
    from ..report import write_report
    from ..report.results import kept
    from ..report.search import write_search

    recipe = find(args.recipe)
    if not args.space:
        raise ValueError("search: say what may be chosen, such as --space inner_lr=1e-3..1:log (see --help).")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("search: start the same command several times instead of torchrun: trials are shared.")
    folder = Path(args.out or f"runs/search-{recipe.name}")
    data = None if args.data == recipe.data_name else args.data
    with advice(data):
        pool = find_pool(recipe, data)
    steps: dict[str, Any] = {} if args.steps is None else {"steps": args.steps}
    try:
        found = search(
            recipe, args.space, pool, trials=args.trials, sampler=args.sampler, prune=args.prune, storage=args.storage,
            name=args.name, out=folder, seed=args.seed, validation_tasks=args.validation_tasks, test_tasks=0,
            budget=args.budget, device=args.device, adopt=args.adopt, info={"data": data}, **steps,
        )  # fmt: skip
    except KeyboardInterrupt as stop:
        stop.args = (f"{stop}; go on with: {args.command}",)
        raise
    command = None
    if found.best is not None:
        command = trains(recipe, found.best.settings, args, data)
        best = " ".join(f"{name}={value}" for name, value in found.best.settings.items())
        say(f"best: {in_words(found.best.score, found.metric)} on validation tasks, trial {found.best.number}: {best}")
    lost = [t for t in found.trials if t.state in ("diverged", "refused")]
    for t in lost[:3]:
        note(f"trial {t.number} {t.state}: {t.why}")
    if len(lost) > 3:
        note(f"... and {len(lost) - 3} more")
    page = write_search(folder / "search.html", found, title=f"Search: {recipe.name}", command=command)
    if found.complete and found.run is not None:
        run = found.run
        assert run.folder is not None
        with Lock(run.folder, ".trial.lock", wait=True):  # of workers that end together, one tests
            if not kept(run.folder):
                rows = rows_for(pool, run.plan.rows, own=data is None)
                how = {"tasks": args.tasks, "seed": 0, "split": "test", "data": data, "command": args.command}
                measured(run, rows, pool, run.folder, **how)
                write_report(run, lambda: pool, tasks=args.tasks)
        say(f"report: {page}")
        suggest(command or "", f"metaloop evaluate {quoted(run.folder)}")
    else:
        say(f"report: {page}")
        begun = sum(t.state == "begun" for t in found.trials)
        note(f"metaloop: {begun} trials are under way elsewhere; who ends last tests the best" if begun else
             "metaloop: the best run lies where it was trained; the same command there tests it")  # fmt: skip


def trains(recipe, settings: dict[str, Any], args, data: str | None) -> str:
    """The command that trains a trial anew."""
    from ..outer.search_space import shown

    words = ["metaloop", "train", recipe.name]
    for name, value in settings.items():
        words += ["--set", f"{name}={shown(value)}"]
    words += ["--budget", args.budget] if args.budget != "full" else []
    words += ["--steps", str(args.steps)] if args.steps else []
    words += ["--seed", str(args.seed)] if args.seed else []
    words += ["--data", data] if data else []
    return shlex.join(words)
