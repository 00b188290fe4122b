"""Make a predictor from labelled images."""

from pathlib import Path

from .console import note, quoted, say, suggest
from .data import image_shape
from .options import RUN, option

OPTIONS = (
    RUN, option("folder", metavar="FOLDER", help="one sub-folder of images per class"),
    option("-o", "--output", required=True, metavar="FILE", help="the predictor, e.g. mine.safetensors"),
)  # fmt: skip


def run(args) -> None:
    from .. import tasks
    from ..engine.predictor import about as predictor_meta
    from ..recipes.stored import open_run, save_predictor

    run = open_run(args.run)
    shape = image_shape(run.info["pool"], args.run)
    if Path(args.output).exists():
        try:
            predictor_meta(args.output)
        except ValueError:
            raise ValueError(f"{args.output} is there and no predictor, so it is kept. Choose another name.") from None
    x, y, classes, skipped = tasks.read_folder(args.folder, shape)
    for path, reason in skipped:
        note(f"metaloop: skipped {path} ({reason})")
    save_predictor(args.output, run, x.float() / 255, y, classes)
    say(f"{args.output}: {len(classes)} classes from {len(x)} images: {', '.join(classes)}")
    suggest(f"metaloop predict {quoted(args.output)} IMAGE...")
