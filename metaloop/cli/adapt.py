"""Make a predictor from labelled images."""

from pathlib import Path

from .console import note, quoted, say, suggest
from .data import image_shape
from .options import option

RUNS = Path("runs")  # where `metaloop train` puts them
OPTIONS = (
    option("where", nargs="+", metavar="[RUN] FOLDER", help="one sub-folder of images per class; before it a run's "
           "folder, to use what was trained there instead of the best that is at hand"),
    option("-o", "--output", metavar="FILE", help="the predictor, e.g. mine.safetensors"),
    option("--add", metavar="FOLDER", help="more images, of classes it knows or new ones, for the predictor FILE that "
           "is given instead of a folder: the same as if made of all at once"),
    option("--backbone", metavar="NAME", help="features of a pretrained network, not the best at hand: timm:MODEL, "
           "torchvision:MODEL or hf:, as installed"),
    option("--nested", action="store_true", help="pictures in the folders of a class's folder are of that class, too"),
    option("--run", action="append", metavar="RUN", help="a run whose features compete with those at hand; may be "
           "given several times (unless given: those in runs/)"),
    option("--weights", metavar="PATH", help="the backbone's weights on this machine: a file, or hf's folder"),
)  # fmt: skip


def run(args) -> None:
    if (args.backbone is None) != (args.weights is None):
        raise ValueError("--backbone NAME and --weights PATH belong together: nothing is downloaded.")
    if args.backbone is not None and (args.add is not None or len(args.where) > 1):
        raise ValueError("--backbone makes a new predictor of one folder: a run has its own, as has what --add is for.")
    if args.nested and len(args.where) > 1 and args.add is None:
        raise ValueError("--nested is for a predictor without a run; a run takes the pictures of each class's folder.")
    if args.run and (args.add is not None or len(args.where) > 1):
        raise ValueError("--run RUN makes a new predictor of one folder: what --add is for has its own, and a run that "
                         "is given before the folder decides alone.")  # fmt: skip
    if args.add is not None:
        return _add(args)
    if args.output is None:
        raise ValueError("-o FILE is missing: where the predictor is kept, e.g. -o mine.safetensors.")
    if len(args.where) > 2:
        raise ValueError(
            f"{len(args.where)} folders are given: give your images, before them perhaps a run."
        )
    if len(args.where) == 2:
        run, images = args.where
        return _from_run(run, images, args.output)
    import torch

    from ..features import at_hand, named
    from ..own import pictures, predictor
    from ..own.choose import tries

    folder = Path(args.where[0])
    if (folder / "run.json").is_file():
        raise ValueError(f"{folder} is a run. Give the folder of your images after it.")
    _keep_others(args.output)
    backbone = None if args.backbone is None else named(args.backbone, args.weights)
    found, y, classes = pictures.read_classes(folder, nested=args.nested)
    _skipped(found)
    features = at_hand("pictures", found.images) if backbone is None else [backbone]
    features += _of_runs(args.run, unasked=backbone is None and tries(torch.tensor(y)))
    f = predictor.make(features, found.images, y, classes, [str(p) for p in found.files], found.digests)
    _done(args.output, f)


def _of_runs(asked: list[str] | None, *, unasked: bool) -> list:
    """The features of the runs that are asked for; unless any are, of those that `metaloop train` left here."""
    from ..features import of_run, runs_in

    if asked:
        return [of_run(run) for run in dict.fromkeys(asked)]
    found, bad = runs_in(RUNS) if unasked and RUNS.is_dir() else ([], [])
    for reason in bad:
        note(f"metaloop: a run does not compete: {reason}")
    return found


def _add(args) -> None:
    from ..own import pictures, predictor

    if len(args.where) != 1:
        raise ValueError("--add FOLDER needs the predictor's file alone: metaloop adapt --add FOLDER mine.safetensors.")
    f = predictor.open_predictor(args.where[0])
    output = args.output or args.where[0]
    _keep_others(output)
    found, y, classes = pictures.read_classes(Path(args.add), nested=args.nested)
    _skipped(found)
    known = {(f.classes[k], mark) for k, mark in zip(f.y.tolist(), f.digests, strict=True)}
    new = [i for i in range(len(y)) if (classes[y[i]], found.digests[i]) not in known]
    if len(new) < len(y):
        note(f"metaloop: {len(y) - len(new)} of {len(y)} pictures are in it already, and count once")
    take = lambda values: [values[i] for i in new]
    sources = [str(p) for p in take(found.files)]
    if new:
        f = predictor.more(f, take(found.images), take(y), classes, sources, take(found.digests))
    _done(output, f)


def _done(output: str, f) -> None:
    from ..engine.run import versions
    from ..own import predictor, words

    predictor.save(output, f, versions())
    n, K = len(f.y), len(f.classes)
    say(f"{output}: {K} class{'es' * (K > 1)} from {n} image{'s' * (n > 1)}: {', '.join(f.classes)}")
    for line in (words.chosen(f), words.expected(f)):
        say(line)
    for line in words.helps(f):
        say(f"what would help: {line}")
    suggest(f"metaloop predict {quoted(output)} IMAGE...")


def _skipped(found) -> None:
    for path, reason in found.skipped:
        note(f"metaloop: skipped {path} ({reason})")


def _keep_others(output: str) -> None:
    """Raises ValueError if there is something else than a predictor."""
    from ..engine.predictor import about as predictor_meta

    if Path(output).exists():
        try:
            predictor_meta(output)
        except ValueError:
            raise ValueError(f"{output} is there and no predictor, so it is kept. Choose another name.") from None


def _from_run(folder: str, images: str, output: str) -> None:
    from .. import tasks
    from ..engine.run import checkpoints, step_of
    from ..recipes.stored import open_run, save_predictor

    run = open_run(folder)
    shape = image_shape(run.info["pool"], folder)
    _keep_others(output)
    x, y, classes, skipped = tasks.read_folder(images, shape)
    for path, reason in skipped:
        note(f"metaloop: skipped {path} ({reason})")
    save_predictor(output, run, x.float() / 255, y, classes)
    say(f"{output}: {len(classes)} classes from {len(x)} images: {', '.join(classes)}")
    steps = run.info["steps"]
    newest = max(map(step_of, checkpoints(Path(folder))), default=steps)
    if newest < steps:
        note(f"note: {folder} has taken {newest} of its {steps} meta-steps; metaloop train with --resume goes on")
    suggest(f"metaloop predict {quoted(output)} IMAGE...")
