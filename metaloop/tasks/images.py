"""Images from files: any folder with one sub-folder per class, and mini-ImageNet."""

import csv
import os
import warnings
import zipfile
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import torch

from .files import Arrays, cached, data_folders, reading
from .pool import ClassPool, Pool, Splits
from .reading import class_files, has_colour, read_folder, read_image

PARTS = ("train", "val", "test")


def folder(
    path: str | os.PathLike,
    *,
    size: int | None = None,
    channels: int | None = None,
    split: tuple[float, float, float] | None = (0.6, 0.2, 0.2),
    seed: int = 0,
    invert: bool | str = "auto",
) -> Pool:
    """Any folder with one sub-folder of images per class, in any format that Pillow reads (hidden files do not count).

    channels: 1 (grey) or 3 (colour); unless given, 3 if any image has colour.
    size: images are stretched to size x size; unless given, 28 if grey and 84 if colour.
    split: fractions of the classes for train, val and test, dealt out by `seed`, each at least two classes unless
        its fraction is 0; None uses all classes for each.
    invert: in grey pools, see `read_image`. Pass False for grey photographs.

    Files that cannot be read are skipped with one warning and listed in the pool's `skipped`: [(path, reason)].
    Raises ValueError for an option out of range, a missing folder, fewer than two classes, a class without a
    readable image, or too few classes for the split.
    """
    path = Path(path)
    call = f"folder({str(path)!r})"
    if channels not in (None, 1, 3) or (size is not None and size < 1) or invert not in ("auto", True, False):
        raise ValueError(
            f"{call}: got {size=}, {channels=}, {invert=}; expected size >= 1, channels 1 or 3, invert 'auto' or bool."
        )
    if split is not None and (len(split) != 3 or min(split) < 0 or split[0] == 0 or abs(sum(split) - 1) > 1e-6):
        raise ValueError(f"{call}: got {split=}, expected three fractions, the first above 0, of sum 1; or None.")
    classes = class_files(path)
    files = [file for name in classes for file in classes[name]]
    bounds = _bounds(call, len(classes), split) if split else None

    def decode() -> Arrays:
        c = channels or (3 if any(map(has_colour, files)) else 1)
        side = size or {1: 28, 3: 84}[c]
        x, y, _, skipped = read_folder(path, (c, side, side), invert=invert)
        return {"x": x.numpy(), "y": y.numpy(), "skipped": np.array(skipped, dtype=str).reshape(-1, 2)}

    stored = cached("folder", files, f"{path.resolve()} {list(classes)} {size} {channels} {invert} 1", decode)
    skipped = [(Path(file), reason) for file, reason in stored["skipped"].tolist()]
    if skipped:
        file, reason = skipped[0]
        warnings.warn(f"{call}: skipped {len(skipped)} files, the first {file} ({reason}).", stacklevel=2)
    images, y, names = torch.from_numpy(stored["x"]), torch.from_numpy(stored["y"]), list(classes)

    def part(chosen: list[int], split: str) -> ClassPool:
        rows = torch.cat([(y == c).nonzero()[:, 0] for c in chosen]) if chosen else y[:0]
        counts = y.bincount(minlength=len(names))[chosen]
        return ClassPool(images[rows], counts, [names[c] for c in chosen], name=path.resolve().name, split=split)

    if bounds is None:
        pool = part(list(range(len(names))), "")
    else:
        order = np.random.RandomState(seed).permutation(len(names)).tolist()
        pool = Splits(*(part(sorted(order[low:high]), s) for s, (low, high) in zip(PARTS, bounds, strict=True)))
    pool.skipped = skipped
    return pool


def _bounds(call: str, classes: int, split: tuple[float, float, float]) -> list[tuple[int, int]]:
    """Where each part begins and ends among the classes."""
    val, test = (max(2, round(classes * share)) if share else 0 for share in split[1:])
    train = classes - val - test
    if train < 2:
        raise ValueError(
            f"{call}: {classes} classes are too few for {split=}, which puts two or more into each part. "
            f"Add classes, or use all for everything with split=None."
        )
    return [(0, train), (train, train + val), (train + val, classes)]


def mini_imagenet(root: str | os.PathLike | None = None) -> Splits:
    """mini-ImageNet: photographs [3, 84, 84] of 64/16/20 classes, from an archive of your own.

    root: a folder that holds the archive, itself or in a folder `mini_imagenet`; unless given, METALOOP_DATA,
        then the cache. The archive is a zip of train.csv, val.csv and test.csv (columns filename, label) and
        images/. It is not downloaded: the images are ImageNet's, for non-commercial research only.
    With fewer than 600 images per class, scores do not compare with published ones.
    Raises ValueError if there is no such archive, or if it is damaged.

    Source: Vinyals et al., Matching Networks for One Shot Learning, 2016; split of Ravi and Larochelle,
    Optimization as a Model for Few-Shot Learning, 2017.
    """
    path = _find_mini_imagenet(root)
    stored = cached("mini_imagenet", [path], "1", lambda: _decode_mini_imagenet(path))
    return Splits(*(
        ClassPool(
            torch.from_numpy(stored[f"{part}_images"]),
            torch.from_numpy(stored[f"{part}_counts"]),
            stored[f"{part}_names"].tolist(),
            name="mini_imagenet",
            split=part,
        )
        for part in PARTS
    ))


def _find_mini_imagenet(root: str | os.PathLike | None) -> Path:
    folders, damaged = data_folders("mini_imagenet", root), ""
    for path in (p for f in folders for p in sorted(f.glob("*.zip"))):
        try:
            with zipfile.ZipFile(path) as archive:
                names = set(archive.namelist())
        except Exception:  # what zipfile raises for odd archives has no common base
            damaged = damaged or f" ({path} is damaged)"
            continue
        if names >= {f"{part}.csv" for part in PARTS} and any(name.startswith("images/") for name in names):
            return path
    raise ValueError(
        f"mini_imagenet: no zip with train.csv, val.csv, test.csv and images/ in {folders[0]}{damaged}. "
        f"It cannot be downloaded (ImageNet's terms): put your own there."
    )


def _decode_mini_imagenet(path: Path) -> Arrays:
    arrays: Arrays = {}
    with reading("mini_imagenet", path, "Replace it by a whole copy.") as archive:
        for part in PARTS:
            with archive.open(f"{part}.csv") as table:
                rows = sorted((r["label"], r["filename"]) for r in csv.DictReader(TextIOWrapper(table, "utf-8")))
            images = (read_image(BytesIO(archive.read(f"images/{file}")), (3, 84, 84)) for _, file in rows)
            arrays[f"{part}_images"] = np.stack([image.numpy() for image in images])
            names, counts = np.unique([label for label, _ in rows], return_counts=True)
            arrays[f"{part}_names"], arrays[f"{part}_counts"] = names, counts
    return arrays
