"""Omniglot: 1623 handwritten characters of 50 alphabets, each drawn once by 20 people; and its 20 one-shot runs
Lake, Salakhutdinov, Tenenbaum, Human-level concept learning through probabilistic program induction,
Science 350, 2015
"""

import json
import os
from importlib.resources import files
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core import Data, Task
from .files import Arrays, cached, data_folders, reading
from .files import download as fetch
from .pool import ClassPool, FixedPool, Splits

URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
ARCHIVES = {  # name: (classes of 20 images, md5 of the official file)
    "images_background.zip": (964, "68d2efa1b9178cc56df9314c21c6e718"),
    "images_evaluation.zip": (659, "6b91aef0f799c5bb55b94e3f2daec811"),
}
RUNS = "all_runs.zip", "one-shot-classification/", "e8996daecdf12afeeb4a53a179f06b19"  # name, place under URL, md5
DRAWERS = 20
HELD_OUT = 5  # alphabets of the background set, for validation
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
    binary: bool = False,
    validation: bool = True,
    download: bool = True,
) -> Splits:
    """Omniglot with ink = 1 on paper = 0, images [1, size, size].

    root: a folder that holds images_background.zip and images_evaluation.zip, itself or in a folder `omniglot`;
        unless given, METALOOP_DATA. What is not there is looked for in the cache, or downloaded to it.
    split: "vinyals" (1028/172/423 characters; all test alphabets but one are new: Vinyals et al. 2016, as
        published by Snell et al. 2017), "random" (1100/100/423 of all characters, shuffled by `seed`: easier) or
        "background" (Lake's: the test characters are his evaluation set, 659 of 20 new alphabets; of his 30 background
        alphabets, with 964 characters, five dealt out by `seed` are for validation).
    rotations: of the training characters, by multiples of 90 degrees. "classes": each of the four is a class
        of its own (4112 of them); "task": one is drawn per class and task, as in MAML's code; None.
    rotations_at_test: the same for validation and test characters.
    resize: "lanczos" is anti-aliased. "nearest" breaks the strokes; most published rows trained on it, since
        Pillow resizes 1-bit images that way whatever filter it is asked for.
    binary: pixels are 0 or 1, ink where there is at least half of it.
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
    stored = cached("omniglot", archives, f"{size} {resize} 2", lambda: _decode(archives, size, FILTERS[resize]))
    images, names = torch.from_numpy(stored["images"]), stored["names"].tolist()
    if split == "background":
        parts = _background(names, stored["background"].tolist(), seed)
    else:
        parts = _vinyals(names) if split == "vinyals" else _random(len(names), seed)
    if not validation:
        parts["train"] = sorted(parts["train"] + parts["val"])
    if binary:
        images = torch.where(images >= 128, 255, 0).to(torch.uint8)
    return Splits(*(
        _pool(part, images[parts[part]], [names[c] for c in parts[part]], how)
        for part, how in (("train", rotations), ("val", rotations_at_test), ("test", rotations_at_test))
    ))


def lake_runs(
    root: str | os.PathLike | None = None, *, resize: str = "lanczos", size: int = 28, download: bool = True
) -> FixedPool:
    """Lake's 20 one-shot runs: in each, 20 characters of one alphabet, drawn once by one person, are to be recognised
    among the same 20 drawn by another. 20-way, 1-shot, one query per class; images as in `omniglot`.

    root, resize, download: as in `omniglot`; the archive is all_runs.zip.
    The characters are from the evaluation set, so train on `omniglot(split="background")`: the other splits put some of
    them among the training classes.

    Raises ValueError for an unknown option, a damaged archive, or data that cannot be fetched.
    """
    if resize not in FILTERS or size < 1:
        raise ValueError(f"lake_runs({resize=}, {size=}): expected one of {', '.join(FILTERS)}, and at least 1 pixel.")
    path = _find(RUNS[0], root, download, "lake_runs")
    stored = cached("lake_runs", [path], f"{size} {resize} 1", lambda: _decode_runs(path, size, FILTERS[resize]))
    support, query, y = (torch.from_numpy(stored[part]) for part in ("support", "query", "y"))
    known = torch.arange(20).expand(len(y), 20)
    runs = Task(*(Data(x[:, :, None].float() / 255, k) for x, k in ((support, known), (query, y))))
    return FixedPool(runs, ways=20, shots=1, queries=1, name="lake_runs")


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


def _background(names: list[str], background: list[bool], seed: int) -> dict[str, list[int]]:
    alphabets = sorted({name.split("/")[0] for name, b in zip(names, background, strict=True) if b})
    held_out = {alphabets[i] for i in np.random.RandomState(seed).permutation(len(alphabets))[:HELD_OUT]}
    parts: dict[str, list[int]] = {"train": [], "val": [], "test": []}
    for c, (name, b) in enumerate(zip(names, background, strict=True)):
        parts["test" if not b else "val" if name.split("/")[0] in held_out else "train"].append(c)
    return parts


def _random(classes: int, seed: int) -> dict[str, list[int]]:
    order = np.random.RandomState(seed).permutation(classes).tolist()
    return {"train": sorted(order[:1100]), "val": sorted(order[1100:1200]), "test": sorted(order[1200:])}


def _find(name: str, root: str | os.PathLike | None, may_download: bool, call: str = "omniglot") -> Path:
    place, md5 = RUNS[1:] if name == RUNS[0] else ("", ARCHIVES[name][1])
    folders = data_folders("omniglot", root)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    if not may_download:
        raise ValueError(f"{call}: {name} is not in {folders[0]}. Fetch {URL}{place}{name} and put it there.")
    fetch(call, URL + place + name, folders[-1] / name, md5)
    return folders[-1] / name


def _decode(archives: list[Path], size: int, resample: Image.Resampling) -> Arrays:
    """images: uint8 [1623, 20, size, size], ink = 255; names: `Alphabet/characterNN`, sorted; background: whether each
    is of the background set."""
    parts = [_read(path, size, resample) for path in archives]
    classes = parts[0] | parts[1]
    names = sorted(classes)
    images = np.stack([np.stack(classes[name]) for name in names])
    return {"images": images, "names": np.array(names), "background": np.array([n in parts[0] for n in names])}


def _read(path: Path, size: int, resample: Image.Resampling) -> dict[str, list[np.ndarray]]:
    wanted, _ = ARCHIVES[path.name]
    again = f"Delete it and fetch {URL}{path.name} again."
    classes: dict[str, list[np.ndarray]] = {}
    with reading("omniglot", path, again) as archive:
        for entry in sorted(archive.namelist()):
            if entry.endswith(".png"):
                _, alphabet, character, _ = entry.split("/")
                classes.setdefault(f"{alphabet}/{character}", []).append(_ink(archive.read(entry), size, resample))
    if len(classes) != wanted or any(len(images) != DRAWERS for images in classes.values()):
        images = sum(map(len, classes.values()))
        raise ValueError(
            f"omniglot: {path} holds {images} images of {len(classes)} classes, expected {DRAWERS} of each of "
            f"{wanted}. {again}"
        )
    return classes


def _decode_runs(path: Path, size: int, resample: Image.Resampling) -> Arrays:
    """support, query: uint8 [20, 20, size, size], ink = 255; y [20, 20]: which support image each query is of."""
    parts: dict[str, list[np.ndarray]] = {"support": [], "query": [], "y": []}
    fix = f"Delete it and fetch {URL}{RUNS[1]}{path.name} again."
    with reading("lake_runs", path, fix) as archive:
        for run in (f"run{i:02d}" for i in range(1, 21)):
            words = archive.read(f"{run}/class_labels.txt").decode().split()
            pairs = list(zip(words[::2], words[1::2], strict=True))  # (query, the support image of its class)
            known = sorted(image for _, image in pairs)
            if len(set(known)) != 20:
                raise ValueError(f"{run}/class_labels.txt names {len(set(known))} classes, expected 20")
            parts["support"].append(np.stack([_ink(archive.read(image), size, resample) for image in known]))
            parts["query"].append(np.stack([_ink(archive.read(image), size, resample) for image, _ in pairs]))
            parts["y"].append(np.array([known.index(image) for _, image in pairs]))
    return {name: np.stack(arrays) for name, arrays in parts.items()}


def _ink(png: bytes, size: int, resample: Image.Resampling) -> np.ndarray:
    """A drawing as uint8 [size, size], ink = 255."""
    with Image.open(BytesIO(png)) as image:
        return 255 - np.asarray(image.convert("L").resize((size, size), resample))
