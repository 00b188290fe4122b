"""The command line: choose a recipe and run it; give examples, get f; call f.

What takes long to import is imported where it is used, so that `metaloop --help` answers at once.
"""

import argparse
import json
import os
import shlex
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DATA = ("omniglot", "glyphs", "mini_imagenet", "sinusoid", "gaussians")


def main(argv: list[str] | None = None) -> int:
    """Run a command; the exit status. Bad input is one line on stderr and status 2."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", category=UserWarning, module="metaloop")
            warnings.showwarning = lambda message, *_: _note(f"metaloop: {message}")
            args = _parser().parse_args(argv)
            args.command = _launcher() + "metaloop " + shlex.join(sys.argv[1:] if argv is None else argv)
            if getattr(args, "data_root", None):
                if not Path(args.data_root).is_dir():
                    raise ValueError(f"--data-root {args.data_root}: no such folder.")
                os.environ["METALOOP_DATA"] = args.data_root
            args.run_command(args)
    except KeyboardInterrupt as stop:
        _note(f"metaloop: stopped{stop}")
        return 130
    except BrokenPipeError:  # `metaloop recipes | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, OSError) as error:
        _note(f"metaloop: {' '.join(str(error).split())}", heir=getattr(error, "heir", False))
        return 2
    return 0


def _recipes(args) -> None:
    from .recipes import RECIPES

    rows = []
    for r in RECIPES.values():
        published = [f"{row.published:g}" for row in r.rows() if row.published is not None]
        rows.append([r.name, r.summary, r.paper, r.data_name, " / ".join(published)])
    _table(["recipe", "trains", "paper", "data", "published"], rows)
    _next("metaloop train protonet-glyphs")


def _train(args) -> None:
    from .engine import fit
    from .engine.ranks import Lost, join
    from .engine.run import read_info, undo
    from .recipes import Outline, find
    from .report import write_report
    from .report.results import keep, measure

    recipe = find(args.recipe)
    folder = Path(args.out or f"runs/{recipe.name}-seed{args.seed or 0}")
    given = {
        "recipe": recipe.name, "data": None if args.data == recipe.data_name else args.data,
        "seed": args.seed, "budget": args.budget, "steps": args.steps, "compile": args.compile,
    }  # fmt: skip
    options: dict[str, Any] = {"data": None, "seed": 0, "budget": "full", "steps": None, "compile": False}
    if args.resume and (folder / "run.json").exists():
        options |= {name: value for name, value in read_info(folder).items() if name in given}
    options |= {name: value for name, value in given.items() if value is not None}
    fresh = not (folder / "run.json").exists()
    if args.resume and fresh:
        _note(f"metaloop: {folder} holds no run to resume; it starts anew")

    ranks, _ = join(args.device)
    try:
        with _advice(options["data"]):
            pool = ranks.first_here(lambda: _pool(recipe, options["data"]))
        plan = recipe.plan(pool, steps=options["steps"], budget=options["budget"])
        if ranks.size > 1 and plan.outer is not fit:
            raise ValueError(f"{recipe.name} improves theta in one process: train it without torchrun.")
        with _advice(options["data"]):
            rows = _rows_for(pool, plan.rows, own=options["data"] is None)
        info = {**options, "steps": plan.steps, "pool": vars(Outline.of(pool))}
        extra = {"checkpoint_every": args.checkpoint_every} if args.checkpoint_every else {}
        if args.memory is not None:
            if plan.outer is not fit:
                raise ValueError(f"--memory: {recipe.name} is not trained by the meta-gradient of many tasks.")
            extra["memory"] = args.memory
        if args.no_capture and plan.outer is fit:
            extra["capture"] = False
        try:
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
        entries = []
        for row in rows:
            _note(f"testing {row.label} on {row.tested(args.tasks)} tasks")
            entries.append(measure(run, row, pool, tasks=args.tasks, seed=0, split="test", data=options["data"]))
        keep(folder, [{**entry, "command": args.command} for entry in entries])
        _scores(entries)
        print(f"report: {write_report(run, lambda: pool, tasks=args.tasks)}")
    except (KeyboardInterrupt, Lost) as stop:
        again = args.command + ("" if args.resume else " --resume")
        how = f"; go on with: {again}" if (folder / "run.json").exists() else ""
        stop.args = (f"{stop}{how}",)
        raise
    to, ways = _quoted(folder), rows[0].ways
    again = f"metaloop evaluate {to}" + (" --shots 10" if pool.kind == "regression" else f" --ways {ways} --shots 5")
    _next(*_uses(pool, folder), again, f"tensorboard --logdir {to}")


def _evaluate(args) -> None:
    from .recipes.stored import open_run
    from .report import write_report
    from .report.results import check, keep, kept, measure

    run = open_run(args.run)
    folder, own = Path(args.run), run.info.get("data")
    kept(folder)
    data, pool = _pool_of(run, args.data)
    _to(run, args.device)
    rows, entries = _rows_asked(run, args), []
    for row in rows:
        check(run, row, pool, args.split)
    for row in rows:
        _note(f"testing {row.label} on {row.tested(args.tasks)} tasks")
        entries.append(measure(run, row, pool, tasks=args.tasks, seed=args.seed, split=args.split, data=data))
    keep(folder, [{**entry, "command": args.command} for entry in entries])
    _scores(entries)
    home = lambda: pool if data == own else _pool_of(run, None)[1]
    print(f"report: {write_report(run, home, tasks=args.tasks)}")
    _next(*(_uses(pool, args.run) or [f"metaloop compare {_quoted(args.run)} RUN"]))


def _compare(args) -> None:
    from .engine import evaluate
    from .recipes.stored import open_run
    from .report.compare import write_plot
    from .report.results import check, in_units, text

    if Path(args.out).suffix not in (".png", ".html"):
        raise ValueError(f"--out {args.out}: expected a name that ends in .png or .html.")
    runs = [open_run(folder) for folder in args.runs]
    shape = runs[0].info["pool"]["shape"]
    for folder, run in zip(args.runs, runs, strict=True):
        if run.info["pool"]["shape"] != shape:
            theirs, ours = ("x".join(map(str, s)) for s in (run.info["pool"]["shape"], shape))
            raise ValueError(f"{folder} was trained on examples of {theirs}, {args.runs[0]} on {ours}.")
    _, pool = _pool_of(runs[0], args.data)
    row = _rows_asked(runs[0], args)[0]
    episode: dict[str, Any] = {"ways": row.ways, "shots": row.shots, "queries": row.queries}
    rows, scores = [row, *(_rows_asked(run, args, like=row)[0] for run in runs[1:])], []
    for run, theirs in zip(runs, rows, strict=True):
        _to(run, args.device)
        check(run, theirs, pool)
    for run, theirs in zip(runs, rows, strict=True):
        _note(f"testing {run.folder} on {args.tasks} tasks")
        protocol = {**episode, "tasks": args.tasks, "seed": args.seed, "metric": theirs.metric}
        scores.append(evaluate(theirs.learner, run.theta, pool, **protocol))
    gaps = [None, *(score - scores[0] for score in scores[1:])]
    metric = in_units(scores[0])[2]
    rows = []
    for folder, run, score, gap in zip(args.runs, runs, scores, gaps, strict=True):
        more = "" if gap is None else ("+" if gap.mean > 0 else "") + text(*in_units(gap))
        rows.append([folder, run.info["recipe"], text(*in_units(score)), more or "–"])
    head = ["run", "recipe", metric, f"difference to {args.runs[0]}"]
    print(f"{row.label}, {args.tasks} tasks of {pool.name}, seed {args.seed}; ± 95 % interval, differences in pairs")
    _table(head, rows)
    write_plot(Path(args.out), args.runs, scores, gaps, title=f"{row.label}, {pool.name}", head=head, rows=rows)
    print(f"plot: {args.out}")
    _next(f"metaloop evaluate {_quoted(args.runs[0])}")


def _adapt(args) -> None:
    from . import tasks
    from .engine.predictor import about as predictor_meta
    from .recipes.stored import open_run, save_predictor

    run = open_run(args.run)
    shape = _image_shape(run.info["pool"], args.run)
    if Path(args.output).exists():
        try:
            predictor_meta(args.output)
        except ValueError:
            raise ValueError(f"{args.output} is there and no predictor, so it is kept. Choose another name.") from None
    x, y, classes, skipped = tasks.read_folder(args.folder, shape)
    for path, reason in skipped:
        _note(f"metaloop: skipped {path} ({reason})")
    save_predictor(args.output, run, x.float() / 255, y, classes)
    print(f"{args.output}: {len(classes)} classes from {len(x)} images: {', '.join(classes)}")
    _next(f"metaloop predict {_quoted(args.output)} IMAGE...")


def _predict(args) -> None:
    import torch

    from . import tasks
    from .engine.predictor import policies, probabilities
    from .recipes.stored import load_predictor

    f, about = load_predictor(args.file)
    images, shape = _images(args.images), _image_shape(about["pool"], args.file)
    x, bad = [], {}
    for path in images:
        try:
            x.append(tasks.read_image(path, shape))
        except Exception as error:  # what Pillow raises for damaged files has no common base
            bad[path] = f"cannot be read as an image ({str(error).partition(chr(10))[0]})"
    unread = ValueError(". ".join(f"{path} {reason}" for path, reason in bad.items()) + ".")
    if not x:
        raise unread
    images = [path for path in images if path not in bad]
    classes = about["classes"]
    p = probabilities(f, torch.stack(x).float() / 255, ways=len(classes))
    order = p.sort(descending=True)
    found = [
        [{"class": classes[k], "probability": round(q, 4)} for k, q in zip(ks[:3], qs[:3], strict=True)]
        for ks, qs in zip(order.indices.tolist(), order.values.tolist(), strict=True)
    ]
    if args.json:
        rows = [{"image": str(i), **top[0], "top": top} for i, top in zip(images, found, strict=True)]
        rows += [{"image": str(i), "error": reason} for i, reason in bad.items()]
        print(json.dumps(rows, indent=2))
    else:
        others = [", ".join(f"{t['class']} {t['probability']:.2f}" for t in top[1:]) for top in found]
        best = [[top[0]["class"], f"{top[0]['probability']:.2f}"] for top in found]
        rows = [[str(image), *b, o] for image, b, o in zip(images, best, others, strict=True)]
        _table(["image", "class", "probability", "then"], rows)
    if "transductive" in policies(f):
        _note("note: this predictor normalises the images of one call by each other; give many at once")
    if bad:
        raise unread
    _next(f"metaloop predict {_quoted(args.file)} IMAGE...{'' if args.json else ' --json'}")


def _pool(recipe, data: str | None, shape=None, split=(0.6, 0.2, 0.2)):
    """The recipe's own data, a data set by name, or a folder, whose images take the given shape."""
    from . import tasks

    if data is None:
        return recipe.data()
    if data in DATA:
        return getattr(tasks, data)()
    if not Path(data).exists():
        raise ValueError(f"there is no data set or folder '{data}'. Data sets: {', '.join(DATA)}.")
    if shape is None:
        return tasks.folder(data, split=split)
    return tasks.folder(data, split=split, channels=shape[0], size=shape[1])


def _pool_of(run, asked: str | None) -> tuple[str | None, Any]:
    """The data a run is tested on and their name, None for the recipe's own: its training data unless asked."""
    from .recipes import find

    recipe, own = find(run.info["recipe"]), run.info.get("data")
    data = own if asked is None else None if asked == recipe.data_name else asked
    shape = tuple(run.info["pool"]["shape"])
    images = len(shape) == 3
    split = (0.6, 0.2, 0.2) if data == own else None  # of a strange folder no class was trained on
    pool = _pool(recipe, data, shape if images else None, split)
    if tuple(pool.shape) != shape or pool.kind != run.info["pool"]["kind"]:
        theirs, ours = "x".join(map(str, pool.shape)), "x".join(map(str, shape))
        raise ValueError(f"{pool.name} has examples of {theirs}, {run.folder} was trained on {ours}.")
    return data, pool


@contextmanager
def _advice(data: str | None):
    """A folder of one's own is often too small to meta-train on, and large enough to adapt to."""
    try:
        yield
    except ValueError as error:
        if data is None or data in DATA or not Path(data).is_dir():
            raise
        adapt = "To learn a few classes from a few pictures, `metaloop adapt` a run that was trained on other data."
        raise ValueError(f"{error} {adapt}") from None


def _rows_for(pool, rows, own: bool):
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
            _note(f"metaloop: {pool.name} cannot hold {row.label} tasks; left out")
    return fit


def _rows_asked(run, args, like=None):
    """The recipe's rows, or those of the ways and shots asked for, which may be none of the paper's."""
    from .recipes.few_shot import label
    from .recipes.plan import Row

    plan = run.plan
    ways, shots, queries = args.ways, args.shots, args.queries
    if like is not None:
        ways, shots, queries = like.ways, like.shots, like.queries
    if run.info["pool"]["kind"] == "regression" and args.ways not in (None, 1):
        raise ValueError(f"--ways {args.ways}: {run.folder} is a regression, which has no classes.")
    rows = [
        row for row in plan.rows
        if row.data is None or (like is None and args.data is None)
        if ways in (None, row.ways) and shots in (None, row.shots) and queries in (None, row.queries)
    ]  # fmt: skip
    if rows:
        return rows
    if ways == 1 and run.info["pool"]["kind"] == "classification":
        raise ValueError("--ways 1: with a single class there is nothing to tell apart. Take at least 2.")
    first = plan.rows[0]
    ways, shots, queries = ways or first.ways, shots or first.shots, queries or first.queries
    name = label(ways, shots) if run.info["pool"]["kind"] == "classification" else f"{shots}-shot"
    return [Row(name, plan.at_test(ways=ways), ways, shots, queries, metric=first.metric)]


def _image_shape(pool: dict[str, Any], source: str) -> tuple[int, ...]:
    shape = tuple(pool["shape"])
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"{source} was not trained on images, but on examples of {'x'.join(map(str, shape))}.")
    return shape


def _images(paths: list[str]) -> list[Path]:
    """The files, and those in the folders among them."""
    from .tasks.images import SUFFIXES

    found = []
    for path in map(Path, paths):
        inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"{path} holds no image ({' '.join(SUFFIXES)}).")
        found += inside
    return found


def _to(run, device: str) -> None:
    from .engine.device import choose
    from .torch_private import pytree

    where = choose(device)
    run.theta = pytree.tree_map(lambda t: t.to(where), run.theta)


def _scores(entries: list[dict[str, Any]]) -> None:
    from .report.results import text

    rows = []
    for e in entries:
        published = "–" if e["published"] is None else text(e["published"], e["published_ci95"], e["metric"])
        rows.append([e["label"], e["metric"], text(e["mean"], e["ci95"], e["metric"]), published])
    _table(["", "", "ours ± ci95", "published"], rows)


def _table(head: list[str], rows: list[list[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _note(line: str, heir: bool = False) -> None:
    """Say it, unless this is one of many processes and neither the first nor its heir."""
    if heir or os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr, flush=True)


def _launcher() -> str:
    """What stands before `metaloop` in the command that started this process."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ""
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    several = f"--nnodes {nodes} " if nodes > 1 else ""
    return f"torchrun {several}--nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', '1')} -m "


def _next(*commands: str) -> None:
    sys.stdout.flush()
    for i, command in enumerate(commands):
        _note(f"{'      ' if i else 'next: '}{command}")


def _uses(pool: Any, run: str | Path) -> list[str]:
    """How to use a run on what is one's own, by the kind of tasks it was trained on."""
    from .tasks.problems import ProblemPool

    if isinstance(pool, ProblemPool):
        there = f"metaloop.open_run({str(run)!r})"
        return [f"optimizer = metaloop.optim.Learned(network.parameters(), {there})    (in Python)"]
    if pool.kind == "regression":
        return []
    return [f"metaloop adapt {_quoted(run)} FOLDER -o mine.safetensors    (FOLDER: one sub-folder of images per class)"]


def _quoted(path: str | Path) -> str:
    return shlex.quote(str(path))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise ValueError(f"{message} (see `{self.prog} --help`)")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    top = _Parser(prog="metaloop", description="Meta-learning: learn F, which turns a small data set into a predictor.")
    from . import __version__

    top.add_argument("--version", action="version", version=f"metaloop {__version__}")
    commands = top.add_subparsers(title="commands", required=True, metavar="COMMAND", parser_class=_Parser)

    def command(name: str, do, summary: str, *options) -> None:
        parser = commands.add_parser(name, help=summary, description=summary)
        for flags, settings in options:
            parser.add_argument(*flags, **settings)
        parser.set_defaults(run_command=do)

    def option(*flags: str, **settings):
        return flags, settings

    run = option("run", metavar="RUN", help="a run's folder")
    seed = option("--seed", type=int, default=0, help="of the test tasks (0)")
    tasks = option("--tasks", type=_count, default=1000, metavar="N", help="test tasks (1000)")
    ways = option("--ways", type=_count, metavar="N", help="classes per task")
    shots = option("--shots", type=_count, metavar="K", help="support examples per class")
    queries = option("--queries", type=_count, metavar="Q", help="query examples per class")
    data = option("--data", metavar="NAME|FOLDER", help=f"{', '.join(DATA)}, or a folder with one sub-folder per class")
    root = option("--data-root", metavar="DIR", help="where data sets lie (METALOOP_DATA)")
    device = option("--device", default="auto", metavar="auto|cpu|cuda|mps", help="what computes (auto)")

    command("recipes", _recipes, "List the recipes.")
    command(
        "train", _train, "Meta-train a recipe, test it, write a report.",
        option("recipe", metavar="RECIPE", help="see `metaloop recipes`"), data, root, device,
        option("--seed", type=int, help="of weights and tasks (0)"),
        option("--budget", choices=("smoke", "quick", "full"), help="seconds, minutes, or as published (full)"),
        option("--steps", type=_count, metavar="N", help="meta-steps, if not as the budget says"),
        option("--out", metavar="DIR", help="the run's folder (runs/RECIPE-seedN)"),
        option("--resume", action="store_true", help="go on where the run was stopped"),
        option("--compile", action="store_const", const=True, help="compile the meta-step; for long runs"),
        option("--no-capture", action="store_true", help="on a GPU: no CUDA graph of the meta-step"),
        option("--checkpoint-every", type=_count, metavar="N", help="steps between checkpoints"),
        option("--memory", metavar="SIZE", help="what training may hold, e.g. 4GB: fewer tasks at once"), tasks,
    )  # fmt: skip
    command(
        "evaluate", _evaluate, "Test a run under its paper's protocol, or another.",
        run, data, root, device, ways, shots, queries, tasks, seed,
        option("--split", default="test", choices=("train", "val", "test"), help="of the data (test)"),
    )  # fmt: skip
    command(
        "compare", _compare, "Test runs on the same tasks: scores and paired differences.",
        option("runs", nargs="+", metavar="RUN", help="runs' folders; differences are to the first"),
        data, root, device, ways, shots, queries, tasks, seed,
        option("--out", default="compare.png", metavar="FILE", help="the plot, .png or .html (compare.png)"),
    )  # fmt: skip
    command(
        "adapt", _adapt, "Make a predictor from labelled images.",
        run, option("folder", metavar="FOLDER", help="one sub-folder of images per class"),
        option("-o", "--output", required=True, metavar="FILE", help="the predictor, e.g. mine.safetensors"),
    )  # fmt: skip
    command(
        "predict", _predict, "Classify images with a predictor.",
        option("file", metavar="FILE", help="made by `metaloop adapt`"),
        option("images", nargs="+", metavar="IMAGE", help="image files, or folders of them"),
        option("--json", action="store_true", help="print JSON"),
    )  # fmt: skip
    return top
