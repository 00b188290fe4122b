"""Classify images with a predictor."""

import json

from .console import note, quoted, suggest, table
from .data import image_shape
from .options import option

OPTIONS = (
    option("file", metavar="FILE", help="made by `metaloop adapt`"),
    option("images", nargs="+", metavar="IMAGE", help="image files, or folders of them"),
    option("--json", action="store_true", help="print JSON"),
)


def run(args) -> None:
    from .. import tasks
    from ..engine.predictor import policies, probabilities
    from ..recipes.stored import load_predictor
    from ..tasks.reading import unread

    f, about = load_predictor(args.file)
    x, images, bad = tasks.read_images(args.images, image_shape(about["pool"], args.file))
    classes = about["classes"]
    p = probabilities(f, x.float() / 255, ways=len(classes))
    order = p.sort(descending=True)
    found = [
        [{"class": classes[k], "probability": round(q, 4)} for k, q in zip(ks[:3], qs[:3], strict=True)]
        for ks, qs in zip(order.indices.tolist(), order.values.tolist(), strict=True)
    ]
    if args.json:
        rows = [{"image": str(i), **top[0], "top": top} for i, top in zip(images, found, strict=True)]
        rows += [{"image": str(i), "error": reason} for i, reason in bad]
        print(json.dumps(rows, indent=2))
    else:
        others = [", ".join(f"{t['class']} {t['probability']:.2f}" for t in top[1:]) for top in found]
        best = [[top[0]["class"], f"{top[0]['probability']:.2f}"] for top in found]
        rows = [[str(image), *b, o] for image, b, o in zip(images, best, others, strict=True)]
        table(["image", "class", "probability", "then"], rows)
    if "transductive" in policies(f):
        note("note: this predictor normalises the images of one call by each other; give many at once")
    if bad:
        raise unread(bad)
    suggest(f"metaloop predict {quoted(args.file)} IMAGE...{'' if args.json else ' --json'}")
