"""Images from files: any folder with one sub-folder per class, and mini-ImageNet."""

import csv
import os
import warnings
import zipfile
from io import BytesIO, TextIOWrapper
from pathlib import Path

import numpy as np
import torch

from .arrays import pool_of
from .divide import ALSO, APART, FRACTIONS, PARTS, Split, divided
from .files import Arrays, cached, data_folders, reading
from .pool import ClassPool, Pool, Splits
from .reading import class_files, has_colour, none_readable, read_image
from .stored import pictures

SPLITS = {*PARTS, *ALSO}  # the folders that are no classes


def folder(
    path: str | os.PathLike,
    *,
    size: int | None = None,
    channels: int | None = None,
    split: Split = FRACTIONS,
    seed: int = 0,
    invert: bool | str = "auto",
    nested: bool = False,
) -> Pool:
    """Any folder with one sub-folder of images per class, in any format that Pillow reads (hidden files do not count).
    If its sub-folders are train, test and perhaps val, those hold the classes' folders, and are the split.

    channels: 1 (grey) or 3 (colour); unless given, 3 if any image has colour.
    size: images are stretched to size x size; unless given, 28 if grey and 84 if colour.
    split: fractions of the classes for train, val and test, dealt out by `seed`, each at least two classes unless
        its fraction is 0; or the classes' names, {"train": [...], "val": [...], "test": [...]}; or a folder of lists of
        them (train.txt, val.txt, test.txt, a name in each line); None uses all classes for each.
    invert: in grey pools, see `read_image`. Pass False for grey photographs.
    nested: images lie at any depth in the folder of their class.

    They are decoded once, by all cores, into a file in the cache, from which the pool reads what it deals: it may be
    larger than memory. A decoding that was stopped goes on. Files that cannot be read are skipped with one warning and
    listed in the pool's `skipped`: [(path, reason)].
    Raises ValueError for an option out of range, a missing folder, fewer than two classes, a class without a
    readable image, a split that cannot be, or too few classes for it.
    """
    path = Path(path)
    call = f"folder({str(path)!r})"
    check_options(call, size, channels, invert)
    classes, own = class_files(path, nested=nested), None
    if {name.lower() for name in classes} <= SPLITS and {"train", "test"} <= {name.lower() for name in classes}:
        own = {name: class_files(path / name, nested=nested) for name in classes}
        of = {name: [part for part in own if name in own[part]] for names in own.values() for name in names}
        if split is not None and (twice := [name for name, parts in of.items() if len(parts) > 1]):
            raise ValueError(f"{call}: class {twice[0]!r} is in {' and in '.join(of[twice[0]])}. {APART}")
        classes = {name: [file for part in of[name] for file in own[part][name]] for name in sorted(of)}
        split = None if split is None else {part: [*names] for part, names in own.items()}
    names = list(classes)
    parts = divided(call, names, split, seed)
    files = [(file, k) for k, name in enumerate(names) for file in classes[name]]
    how = {"size": size, "channels": channels, "invert": invert, "name": path.resolve().name}
    return of_files(call, "folder", files, names, parts, **how)


def check_options(call: str, size: int | None, channels: int | None, invert: bool | str) -> None:
    """Raise ValueError unless pictures can be read so."""
    if channels not in (None, 1, 3) or (size is not None and size < 1) or invert not in ("auto", True, False):
        raise ValueError(
            f"{call}: got {size=}, {channels=}, {invert=}; expected size >= 1, channels 1 or 3, invert 'auto' or bool."
        )


def of_files(
    call: str, kind: str, files: list[tuple[Path, int]], names: list[str], parts: list[list[int]] | None, *,
    size: int | None, channels: int | None, invert: bool | str, name: str,
) -> Pool:  # fmt: skip
    """The pool of picture files, each with the number of its class."""
    paths, y = [file for file, _ in files], torch.tensor([k for _, k in files], dtype=torch.long)
    c = channels
    if c is None:
        colour = lambda: {"colour": np.array(any(map(has_colour, paths)))}
        c = 3 if cached(f"{kind}-colour", paths, "1", colour)["colour"] else 1
    side = size or {1: 28, 3: 84}[c]
    x, lost, release = pictures(kind, paths, (c, side, side), invert=invert)
    skipped = [(paths[i], reason) for i, reason in lost]
    for i, _ in lost:
        y[i] = -1
    if empty := [k for k, n in enumerate(y[y >= 0].bincount(minlength=len(names)).tolist()) if n == 0]:
        theirs = [file for file, k in files if k == empty[0]]
        raise none_readable(call, names[empty[0]], theirs, [s for s in skipped if s[0] in theirs])
    if skipped:
        file, reason = skipped[0]
        warnings.warn(f"{call}: skipped {len(skipped)} files, the first {file} ({reason}).", stacklevel=3)
    pool = pool_of(x, y, names, parts, name=name, release=release)
    pool.skipped = skipped
    return pool


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
