"""The pickles that people of this field hold: mini-ImageNet, CIFAR-FS, FC100, tieredImageNet, and others like them."""

import os
import re
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from .arrays import let_go, pool_of
from .divide import APART, FRACTIONS, PARTS, Split, classes_of, divided
from .pickles import read_pickle
from .pool import Pool, Splits
from .stored import pictures

ENDINGS = (".pkl", ".pickle", ".p")
FORMS = "{'image_data', 'class_dict'}, {'data', 'labels'}, or a list of PNGs beside ..._labels.pkl"


def from_pickle(path: str | os.PathLike, *, split: Split = FRACTIONS, seed: int = 0) -> Pool:
    """A pool of one of the field's pickles, or of a folder of those for train, val and test, which then are the split.

    What they hold is known by itself:

        {"image_data": [n, H, W, C], "class_dict": {name: [i, ...]}}    mini-imagenet-cache-train.pkl
        {"data": [n, H, W, C], "labels": [n]}                           CIFAR_FS_train.pickle, FC100_train.pickle
        [n PNGs, as bytes], beside {"label_specific": [n], ...}         train_images_png.pkl, train_labels.pkl

    in bytes, or in floats, which are dealt as they are. Of PNGs the channels are in the order that cv2.imdecode gives
    them, as in the code of that data set. Arrays stay on disk where the file holds them as they are.

    split, seed: as `arrays` has them, for a single file.
    No pickle is unpickled: `metaloop.tasks.pickles` reads arrays, dicts, lists and words out of them, whichever Python
    and numpy wrote them. Raises ValueError, naming it, if one holds anything else, is damaged, or is of another form.
    """
    path = Path(path)
    call = f"from_pickle({str(path)!r})"
    if path.is_dir():
        files = _parts(call, path)
        pools = {part: _pool(call, files[part], None, 0, path.resolve().name, part) for part in files}
        of: dict[str, str] = {}
        for part, pool in pools.items():
            twice = [name for name in pool.names or () if name in of]
            if not all(name.isdecimal() for name in twice):  # numbers begin anew in each file
                raise ValueError(f"{call}: class {twice[0]!r} is in {of[twice[0]]} and in {part}. {APART}")
            of |= dict.fromkeys(pool.names or (), part)
        train = pools["train"]
        return Splits(train, pools.get("val", train), pools.get("test", train))
    if not path.is_file():
        raise ValueError(f"{call}: no such file or folder.")
    return _pool(call, path, split, seed, path.stem, "")


def _parts(call: str, folder: Path) -> dict[str, Path]:
    """The files of train, val and test in a folder."""
    found: dict[str, list[Path]] = {part: [] for part in PARTS}
    for file in sorted(p for p in folder.iterdir() if p.suffix.lower() in ENDINGS and "label" not in p.stem.lower()):
        words = [w for w in re.split(r"[^a-z]+", file.stem.lower()) if w in (*PARTS, "valid")]
        words = words[2:] if words[:1] == ["train"] and "phase" in file.stem.lower() and len(words) > 2 else words
        if len({*words}) == 1:
            found["val" if words[0] == "valid" else words[0]].append(file)
    if not found["train"] or not (found["val"] or found["test"]):
        raise ValueError(f"{call}: no {'/'.join(ENDINGS)} files for train and test there, such as "
                         "mini-imagenet-cache-train.pkl.")  # fmt: skip
    for part, files in found.items():
        if len(files) > 1:
            raise ValueError(f"{call}: {files[0].name} and {files[1].name} are both for {part}. Keep one there.")
    return {part: files[0] for part, files in found.items() if files}


def _pool(call: str, path: Path, split: Split, seed: int, name: str, part: str) -> Pool:
    held, file = read_pickle(path)
    release = lambda: let_go(file)
    if isinstance(held, dict) and "image_data" in held and isinstance(held.get("class_dict"), dict):
        x, names = _array(call, path, held["image_data"]), [str(name) for name in held["class_dict"]]
        places = [_numbers(call, path, places) for places in held["class_dict"].values()]
        y = torch.full((len(x),), -1)
        for k, at in enumerate(places):
            if len(at) and not 0 <= int(at.min()) <= int(at.max()) < len(x):
                raise ValueError(f"{call}: in {path.name} class {names[k]!r} has an example that is not there.")
            if len(at.unique()) < len(at) or (y[at] >= 0).any():
                raise ValueError(f"{call}: in {path.name} an example of class {names[k]!r} is told twice.")
            y[at] = k
        order = sorted(range(len(names)), key=lambda k: names[k])
        names, y = [names[k] for k in order], _renumbered(y, order)
    elif isinstance(held, dict) and "data" in held and "labels" in held:
        x = _array(call, path, held["data"])
        names, y = classes_of(call, held["labels"])
        names = _words(held.get("catname2label"), names)
    elif isinstance(held, list) and held and all(isinstance(p, np.ndarray | bytes | memoryview) for p in held):
        labels = _labels_beside(call, path)
        names, y = classes_of(call, labels)
        if len(held) != len(y):
            raise ValueError(f"{call}: {path.name} has {len(held)} examples and {len(y)} labels.")
        return _of_pngs(call, path, held, file, names, y, split, seed, name, part)
    else:
        told = f"keys {', '.join(map(repr, [*held][:4]))}" if isinstance(held, dict) else f"a {type(held).__name__}"
        raise ValueError(f"{call}: {path.name} holds {told}, expected {FORMS}.")
    if len(x) != len(y):
        raise ValueError(f"{call}: {path.name} has {len(x)} examples and {len(y)} labels.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of arrays that must not be written to: nothing here does
        examples = torch.from_numpy(x if x.dtype == np.uint8 else x.astype(np.float32))
    if examples.ndim == 4 and examples.shape[-1] in (1, 3):
        examples = examples.permute(0, 3, 1, 2)
    release = release if x.dtype == np.uint8 else None
    pool = pool_of(examples, y, names, divided(call, names, split, seed, y=y), name=name, release=release)
    pool.split = part or pool.split
    return pool


def _array(call: str, path: Path, x: Any) -> np.ndarray:
    if not isinstance(x, np.ndarray) or x.ndim < 2 or x.dtype.kind not in "uif":
        raise ValueError(f"{call}: the examples in {path.name} are no array of numbers.")
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise ValueError(f"{call}: {path.name} holds values that are not finite (NaN or infinite).")
    return x


def _renumbered(y: torch.Tensor, order: list[int]) -> torch.Tensor:
    place = torch.full((len(order) + 1,), -1)
    place[torch.tensor(order, dtype=torch.long)] = torch.arange(len(order))
    return place[y]  # of -1 the last, which is -1


def _numbers(call: str, path: Path, places: Any) -> torch.Tensor:
    try:
        return torch.from_numpy(np.asarray(places).astype(np.int64).reshape(-1))
    except (ValueError, TypeError):
        raise ValueError(f"{call}: in {path.name} the examples of a class are told as none are.") from None


def _words(told: Any, names: list[str]) -> list[str]:
    """The classes' words, where there is a dict of their numbers."""
    if not isinstance(told, dict):
        return names
    words = {str(number): str(word) for word, number in told.items()}
    found = [words.get(name, name) for name in names]
    return found if len({*found}) == len(found) else names


def _labels_beside(call: str, path: Path) -> Any:
    """The labels of PNGs, in a file of their own."""
    beside = path.with_name(re.sub(r"images(_png)?", "labels", path.stem) + path.suffix)
    if beside == path or not beside.is_file():
        raise ValueError(f"{call}: {path.name} holds pictures alone; their labels belong beside it, in {beside.name}.")
    held, _ = read_pickle(beside)
    if isinstance(held, dict):
        known = {str(key): value for key, value in held.items()}
        held = known.get("label_specific", known.get("labels"))
    if held is None:
        raise ValueError(f"{call}: {beside.name} holds no 'label_specific'.")
    return held


def _of_pngs(call: str, path: Path, held: list[Any], file: Any, names, y, split, seed, name: str, part: str) -> Pool:
    """The pool of pictures [n, C, H, W], of the first one's size, decoded once."""
    views = [np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.reshape(-1) for data in held]
    base = np.frombuffer(file, np.uint8).__array_interface__["data"][0]
    places = [(view.__array_interface__["data"][0] - base, view.nbytes) for view in views]
    try:
        with Image.open(BytesIO(views[0].tobytes())) as first:
            shape = (1 if first.mode in ("L", "1") else 3, first.height, first.width)
    except Exception as error:  # what Pillow raises for what is no picture has no common base
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{call}: the first picture in {path.name} cannot be read ({reason}).") from None
    if all(start >= 0 and start + size <= len(file) for start, size in places):
        sources: list[Any] = [(path, start, size) for start, size in places]
    else:  # Python 2 wrote them as words: they are not in the file as they are
        sources = [BytesIO(view.tobytes()) for view in views]
    x, lost, release = pictures("pickled", sources, shape, invert=False, flip=True)
    if lost:
        i, reason = lost[0]
        raise ValueError(f"{call}: {len(lost)} pictures in {path.name} cannot be read, the first at {i} ({reason}).")
    pool = pool_of(x, y, names, divided(call, names, split, seed, y=y), name=name, release=release)
    pool.split = part or pool.split
    return pool
