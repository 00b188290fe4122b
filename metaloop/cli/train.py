"""Meta-train a recipe, test it, write a report."""

from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .console import note, quoted, say, suggest
from .data import advice, find_pool, measured, move, rows_for
from .options import DATA, DATA_ROOT, DEVICE, JSON, TASKS, count, option, seed

OPTIONS = (
    option("recipe", metavar="RECIPE", help="see `metaloop recipes`"), DATA, DATA_ROOT, DEVICE,
    option("--seed", type=seed, help="of weights and tasks (0)"),
    option("--budget", choices=("smoke", "quick", "full"), help="seconds, minutes, or as published (full)"),
    option("--steps", type=count, metavar="N", help="meta-steps, if not as the budget says"),
    option("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting, see `metaloop recipes RECIPE`"),
    option("--out", metavar="DIR", help="the run's folder (runs/RECIPE-seedN)"),
    option("--resume", action="store_true", help="go on where the run was stopped"),
    option("--compile", action="store_const", const=True, help="compile the meta-step; for long runs"),
    option("--no-capture", action="store_true", help="on a GPU: no CUDA graph of the meta-step"),
    option("--checkpoint-every", type=count, metavar="N", help="steps between checkpoints"),
    option("--memory", metavar="SIZE", help="what training may hold, e.g. 4GB: fewer tasks at once"), TASKS,
    JSON,
)  # fmt: skip


@contextmanager
def refused(changed: list[str]):
    """What cannot be trained with is told in one line: a width of 0 is torch's to refuse, by an error of any kind."""
    try:
        yield
    except Exception as error:
        if not changed or isinstance(error, ValueError | OSError | MemoryError):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ValueError(f"--set {' --set '.join(changed)}: it cannot be trained so ({reason}).") from None


def run(args) -> None:
    from ..engine import fit
    from ..engine.log import has_tensorboard
    from ..engine.ranks import Lost, join
    from ..engine.run import BEST, Run, read_info, undo
    from ..recipes import find, keywords
    from ..report import write_report

    recipe = find(args.recipe)
    changed = keywords.read(recipe, args.set)
    folder = Path(args.out or f"runs/{recipe.name}-seed{args.seed or 0}")
    given = {
        "recipe": recipe.name, "data": None if args.data == recipe.data_name else args.data,
        "seed": args.seed, "budget": args.budget, "steps": args.steps, "compile": args.compile,
    }  # fmt: skip
    options: dict[str, Any] = {
        "data": None, "seed": 0, "budget": "full", "settings": None, "steps": None, "compile": False
    }  # fmt: skip
    if args.resume and (folder / "run.json").exists():
        options |= {name: value for name, value in read_info(folder).items() if name in {*given, "settings"}}
    if args.budget is not None:  # its settings as they are now
        options["settings"] = None
    options |= {name: value for name, value in given.items() if value is not None}
    fresh = not (folder / "run.json").exists()
    if args.resume and fresh:
        note(f"metaloop: {folder} holds no run to resume; it starts anew")

    ranks, _ = join(args.device)
    try:
        with advice(options["data"]):
            pool = ranks.first_here(lambda: find_pool(recipe, options["data"]))
        settings = {**(options["settings"] or recipe.settings(options["budget"])), **changed}
        with refused(args.set):
            plan = recipe.plan(pool, steps=options["steps"], budget=options["budget"], settings=settings)
        most = pool.train.classes
        for name in {"ways", "sets", "classes"} & changed.keys():  # a recipe's own number gives way to the data's
            if most and isinstance(changed[name], int) and changed[name] > most:
                raise ValueError(f"--set {name}={changed[name]}: the data has {most} training classes.")
        if ranks.size > 1 and plan.outer is not fit:
            raise ValueError(f"{recipe.name} improves theta in one process: train it without torchrun.")
        with advice(options["data"]):
            rows = rows_for(pool, plan.rows, own=options["data"] is None)
        info = {**options, "settings": settings, "steps": plan.steps, "pool": pool.outline()}
        extra = {"checkpoint_every": args.checkpoint_every} if args.checkpoint_every else {}
        if args.memory is not None:
            if plan.outer is not fit:
                raise ValueError(f"--memory: {recipe.name} is not trained by the meta-gradient of many tasks.")
            extra["memory"] = args.memory
        if args.no_capture and plan.outer is fit:
            extra["capture"] = False
        try:
            with refused(args.set):
                run = plan.outer(
                    plan.learner, plan.pool, **plan.training(), **extra, seed=options["seed"], device=args.device,
                    compile=options["compile"], out=folder, resume=args.resume, info=info,
                )  # fmt: skip
        except ValueError as error:
            if fresh and ranks.rank == 0 and type(error) is ValueError:  # bad input: no training went wrong
                undo(folder)
            raise
        if ranks.rank > 0:
            return
        run.plan = plan
        if (folder / BEST).exists():
            run = Run.open(folder, plan.learner, at_test=run.learner, plan=plan)
            move(run, args.device)
            note(f"step {run.step} of {plan.steps} was best in validation: it is tested, and used")
        how = {"tasks": args.tasks, "seed": 0, "split": "test", "data": options["data"], "command": args.command}
        measured(run, rows, pool, folder, **how, as_json=args.json)
        (note if args.json else say)(f"report: {write_report(run, lambda: pool, tasks=args.tasks)}")
    except (KeyboardInterrupt, Lost) as stop:
        again = args.command + ("" if args.resume else " --resume")
        how = f"; go on with: {again}" if (folder / "run.json").exists() else ""
        stop.args = (f"{stop}{how}",)
        raise
    to = quoted(folder)
    again = f"metaloop evaluate {to}{pool.target.again(rows[0].ways)}"
    events = [f"tensorboard --logdir {to}"] if has_tensorboard() else []
    suggest(*pool.uses(folder), again, *events)
