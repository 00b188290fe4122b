"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn once by 20 people
Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program induction,
Science 350, 2015
"""

import json
import os
import zipfile
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .files import Arrays, cached, data_folders, reading
from .files import download as fetch
from .pool import ClassPool, Splits

URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ARCHIVES = {  # name: (classes of 20 images, md5 of the official file)
    "images_background.zip": (964, "68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation.zip": (659, "6b91aef0f799c5bb55b94e3f2daec811"),
}
DRAWERS = 20
FILTERS = {"lanczos": Image.Resampling.LANCZOS, "nearest": Image.Resampling.NEAREST}
ROTATIONS = (None, "classes", "task")


def omniglot(
    root: str | os.PathLike | None = None,
    *,
    split: str = "vinyals",
    seed: int = 1,
    rotations: str | None = "classes",
    rotations_at_test: str | None = None,
    resize: str = "lanczos",
    size: int = 28,
    validation: bool = True,
    download: bool = True,
) -> Splits:
    """Omniglot with ink = 1 on paper = 0, images [1, size, size].

    root: a folder that holds images_background.zip and images_evaluation.zip, itself or in a folder `omniglot`;
        unless given, METALOOP_DATA. What is not there is looked for in the cache, or downloaded to it.
    split: "vinyals" (1028/172/423 characters; all test alphabets but one are new: Vinyals et al. 2016, as
        published by Snell et al. 2017); "random" (1100/100/423 of all characters, shuffled by `seed`: easier); or
        "background" (the original: 30 background alphabets, of which `seed` chooses 5 for validation; 20 others for
        test).
    rotations: of the training characters, by multiples of 90 degrees. "classes": each of the four is a class
        of its own (4112 of them); "task": one is drawn per class and task, as in MAML's code; None.
    rotations_at_test: the same for validation and test characters.
    resize: "lanczos" is anti-aliased. "nearest" breaks the strokes; most published rows trained on it, since
        Pillow resizes 1-bit images that way whatever filter it is asked for.
    validation: False trains on the validation classes as well, as Snell et al. do in the end; `val` keeps them.

    Raises ValueError for an unknown option, a damaged archive, or data that cannot be fetched.

    Data: https://github.com/brendenlake/omniglot (MIT).
    """
    for key, value, known in (
        ("split", split, ("vinyals", "random", "background")),
        ("rotations", rotations, ROTATIONS),
        ("rotations_at_test", rotations_at_test, ROTATIONS),
        ("resize", resize, tuple(FILTERS)),
    ):
        if value not in known:
            raise ValueError(f"omniglot({key}={value!r}): expected one of {', '.join(map(repr, known))}.")
    if size < 1:
        raise ValueError(f"omniglot({size=}): expected at least 1 pixel.")

    archives = [_find(name, root, download) for name in ARCHIVES]
    stored = cached("omniglot", archives, f"{size} {resize} 1", lambda: _decode(archives, size, FILTERS[resize]))
    images, names = torch.from_numpy(stored["images"]), stored["names"].tolist()
    if split == "background":
        parts = _background(names, archives[0], seed)
    else:
        parts = _vinyals(names) if split == "vinyals" else _random(len(names), seed)
    if not validation:
        parts["train"] = sorted(parts["train"] + parts["val"])
    return Splits(*(
        _pool(part, images[parts[part]], [names[c] for c in parts[part]], how)
        for part, how in (("train", rotations), ("val", rotations_at_test), ("test", rotations_at_test))
    ))


def _pool(split: str, images: Tensor, names: list[str], rotations: str | None) -> ClassPool:
    """images: [classes, 20, H, W]."""
    images = images.flatten(0, 1)[:, None]
    counts = torch.full((len(names),), DRAWERS)
    if rotations is None:
        return ClassPool(images, counts, names, name="omniglot", split=split)
    images = torch.cat([torch.rot90(images, k, (-2, -1)) for k in range(4)])
    if rotations == "task":
        return ClassPool(images, counts, names, name="omniglot", split=split, turns=4)
    names = [f"{name}/rot{90 * k:03d}" for k in range(4) for name in names]
    return ClassPool(images, counts.repeat(4), names, name="omniglot", split=split)


def _vinyals(names: list[str]) -> dict[str, list[int]]:
    """The classes of each part; the table gives each alphabet's first and last character."""
    table = json.loads(files("metaloop.tasks").joinpath("omniglot_vinyals.json").read_text())
    place = {name: c for c, name in enumerate(names)}
    return {
        part: [place[f"{a}/character{n:02d}"] for a, (first, last) in rows.items() for n in range(first, last + 1)]
        for part, rows in table.items()
    }


def _random(classes: int, seed: int) -> dict[str, list[int]]:
    order = np.random.RandomState(seed).permutation(classes).tolist()
    return {"train": sorted(order[:1100]), "val": sorted(order[1100:1200]), "test": sorted(order[1200:])}


def _background(names: list[str], background: Path, seed: int) -> dict[str, list[int]]:
    """The background archive's alphabets, five of them for validation, and all others for test."""
    with zipfile.ZipFile(background) as archive:
        alphabets = sorted({entry.split("/")[1] for entry in archive.namelist() if entry.endswith(".png")})
    held_out = {alphabets[i] for i in np.random.RandomState(seed).permutation(len(alphabets))[:5]}
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for c, name in enumerate(names):
        alphabet = name.split("/")[0]
        parts["test" if alphabet not in alphabets else "val" if alphabet in held_out else "train"].append(c)
    return parts


def _find(name: str, root: str | os.PathLike | None, may_download: bool) -> Path:
    folders = data_folders("omniglot", root)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    if not may_download:
        raise ValueError(f"omniglot: {name} is not in {folders[0]}. Fetch {URL}{name} and put it there.")
    fetch("omniglot", URL + name, folders[-1] / name, ARCHIVES[name][1])
    return folders[-1] / name


def _decode(archives: list[Path], size: int, resample: Image.Resampling) -> Arrays:
    """images: uint8 [1623, 20, size, size], ink = 255; names: `Alphabet/characterNN`, sorted."""
    classes: dict[str, list[np.ndarray]] = {}
    for path in archives:
        classes |= _read(path, size, resample)
    names = sorted(classes)
    return {"images": np.stack([np.stack(classes[name]) for name in names]), "names": np.array(names)}


def _read(path: Path, size: int, resample: Image.Resampling) -> dict[str, list[np.ndarray]]:
    wanted, _ = ARCHIVES[path.name]
    again = f"Delete it and fetch {URL}{path.name} again."
    classes: dict[str, list[np.ndarray]] = {}
    with reading("omniglot", path, again) as archive:
        for entry in sorted(archive.namelist()):
            if entry.endswith(".png"):
                _, alphabet, character, _ = entry.split("/")
                with Image.open(BytesIO(archive.read(entry))) as png:
                    small = png.convert("L").resize((size, size), resample)
                classes.setdefault(f"{alphabet}/{character}", []).append(255 - np.asarray(small))
    if len(classes) != wanted or any(len(images) != DRAWERS for images in classes.values()):
        images = sum(map(len, classes.values()))
        raise ValueError(
            f"omniglot: {path} holds {images} images of {len(classes)} classes, expected {DRAWERS} of each of "
            f"{wanted}. {again}"
        )
    return classes
