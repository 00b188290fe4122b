"""Classify images with a predictor."""

import argparse
import json
from pathlib import Path
from typing import Any

from .console import note, quoted, suggest, table
from .data import image_shape
from .options import option


def share(text: str) -> float:
    """A number between 0 and 1, neither included."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is out of range: give a number between 0 and 1, 0.9 say")
    return value


OPTIONS = (
    option("file", metavar="FILE", help="made by `metaloop adapt`"),
    option("images", nargs="+", metavar="IMAGE", help="image files, or folders of them"),
    option("--coverage", type=share, metavar="SHARE", help="answer with a set of classes that holds the right one that "
           "often, 0.95 say"),
    option("--false-accept", type=share, metavar="SHARE", help="answer `none of these`, and aim at taking this share, "
           "0.05 say, of images of no class for one"),
    option("--json", action="store_true", help="print JSON"),
)  # fmt: skip
NONE = "none of these"


def run(args) -> None:
    from ..recipes.stored import any_predictor

    if "" in args.images:  # which would be this folder
        raise ValueError("predict: one of the images has no name ('').")
    f, about = any_predictor(args.file)
    if "own" in about:
        return _own(args, f)
    for name in ("coverage", "false_accept"):
        if getattr(args, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')}: {args.file} was made from a run, which kept no held-out images to tell "
                f"that by. Make it without a run: metaloop adapt FOLDER -o FILE."
            )
    _of_a_run(args, f, about)


def _own(args, f) -> None:
    from ..own import pictures
    from ..tasks.reading import unread

    if f.kind != pictures.KIND:
        raise ValueError(f"{args.file} answers to {f.kind}, not to images.")
    single = len(f.classes) == 1
    if single:
        if args.coverage is not None or args.false_accept is not None:
            raise ValueError("of one class alone no coverage or rate can be promised: what do others look like?")
        threshold = f.alone()
    else:
        threshold = f.threshold(args.false_accept) if args.false_accept is not None else None
        if args.coverage is not None:
            f.sets(f.A[:0], args.coverage)  # or refuse, before images are read
    found = pictures.read_given(map(Path, args.images))
    bad = [(path, f"cannot be read as an image ({why})") for path, why in found.skipped]
    if not found.images:
        raise unread(bad)
    answers = f.answers(found.images)
    sets = f.sets(answers.p, args.coverage) if args.coverage is not None else None
    order, near = answers.p.sort(descending=True), answers.alike.topk(min(3, answers.alike.shape[1]))
    rows: list[dict[str, Any]] = []
    for i, file in enumerate(found.files):
        top = [
            {"class": f.classes[k], "probability": round(p, 4)}
            for k, p in zip(order.indices[i, :3].tolist(), order.values[i, :3].tolist(), strict=True)
        ]
        strange = threshold is not None and bool(answers.known[i] <= threshold)
        row: dict[str, Any] = {"image": str(file), **top[0], "top": top}
        if single:
            row = {"image": str(file), "class": f.classes[0]}
        if strange:
            row["class"] = NONE
            if not single:
                row["probability"] = None  # `top` has those of its classes
        if threshold is not None:
            row["none of these"] = strange
        if sets is not None:
            row["set"] = [f.classes[k] for k in sets[i]]
        row["nearest"] = [
            {"image": f.sources[j], "class": f.classes[int(f.y[j])], "alike": round(v, 4)}
            for j, v in zip(near.indices[i].tolist(), near.values[i].tolist(), strict=True)
        ]
        rows.append(row)
    if args.json:
        print(json.dumps(rows + [{"image": str(i), "error": reason} for i, reason in bad], indent=2))
    else:
        _table(rows, args.coverage)
    if single:
        note("note: it knows one class, and says yes to about nine in ten of its own; to others, it cannot know")
    elif args.false_accept is not None and (lost := f.lost(threshold)) is not None:  # type: ignore[arg-type]
        note(f"note: at that rate {100 * lost:.0f} % of your own held-out images were called {NONE}, too")
    if bad:
        raise unread(bad)
    suggest(f"metaloop predict {quoted(args.file)} IMAGE...{'' if args.json else ' --json'}")


def _table(rows: list[dict[str, Any]], coverage: float | None) -> None:
    many = "top" in rows[0]
    head = ["image", "class", *(["probability", "then"] if many else [])]
    head += [f"set of {100 * coverage:g} %"] if coverage is not None else []
    lines = []
    for row in rows:
        line = [row["image"], row["class"]]
        if many:
            rest = [t for t in row["top"] if t["class"] != row["class"]]
            sure = f"{row['probability']:.2f}" if row["class"] != NONE else ""
            line += [sure, ", ".join(f"{t['class']} {t['probability']:.2f}" for t in rest)]
        if coverage is not None:
            line.append(", ".join(row["set"]))
        lines.append([*line, row["nearest"][0]["image"]])
    table([*head, "most like"], lines)


def _of_a_run(args, f, about: dict[str, Any]) -> None:
    from .. import tasks
    from ..engine.predictor import policies, probabilities
    from ..tasks.reading import unread

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
