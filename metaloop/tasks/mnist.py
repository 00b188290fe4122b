"""MNIST: ten handwritten digits, 70 000 pictures
LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 86(11), 1998
"""

import gzip
import os
import zlib
from pathlib import Path

import numpy as np
import torch

from .files import Arrays, cached, data_folders
from .files import download as fetch
from .pool import ClassPool, Splits

URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
FILES = {  # name: (shape, md5 of the official file)
    "train-images-idx3-ubyte.gz": ((60_000, 28, 28), "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte.gz": ((60_000,), "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte.gz": ((10_000, 28, 28), "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte.gz": ((10_000,), "ec29112dd5afa0611ce80d1b7f02629c"),
}
HELD_OUT = 5_000  # training pictures kept for validation


def mnist(root: str | os.PathLike | None = None, *, download: bool = True) -> Splits:
    """MNIST with ink = 1 on paper = 0 as in Omniglot, images [1, 28, 28].

    All ten digits are in each part: train has 55 000 pictures, val the last 5 000 of the training file, test the
    10 000 of the test file. So classes are not new at meta-test, unless all of training was on other data.
    root: a folder that holds the four gzipped files, itself or in a folder `mnist`; unless given, METALOOP_DATA.
        What is not there is looked for in the cache, or downloaded to it.

    Raises ValueError for a damaged file, or data that cannot be fetched.
    """
    paths = [_find(name, root, download) for name in FILES]
    stored = cached("mnist", paths, "1", lambda: _decode(paths))
    x, y = torch.from_numpy(stored["x"])[:, None], torch.from_numpy(stored["y"])
    cut = FILES["train-labels-idx1-ubyte.gz"][0][0]
    bounds = {"train": (0, cut - HELD_OUT), "val": (cut - HELD_OUT, cut), "test": (cut, len(y))}
    return Splits(*(_pool(x[low:high], y[low:high], part) for part, (low, high) in bounds.items()))


def _pool(x: torch.Tensor, y: torch.Tensor, split: str) -> ClassPool:
    order = y.argsort(stable=True)
    return ClassPool(x[order], y.bincount(minlength=10), list("0123456789"), name="mnist", split=split)


def _find(name: str, root: str | os.PathLike | None, may_download: bool) -> Path:
    folders = data_folders("mnist", root)
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    if not may_download:
        raise ValueError(f"mnist: {name} is not in {folders[0]}. Fetch {URL}{name} and put it there.")
    fetch("mnist", URL + name, folders[-1] / name, FILES[name][1])
    return folders[-1] / name


def _decode(paths: list[Path]) -> Arrays:
    """x: uint8 [70000, 28, 28]; y: int64 [70000]; training first."""
    arrays = [_read(path) for path in paths]
    return {"x": np.concatenate(arrays[::2]), "y": np.concatenate(arrays[1::2]).astype(np.int64)}


def _read(path: Path) -> np.ndarray:
    shape, _ = FILES[path.name]
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"mnist: {path} is damaged ({error}). Delete it and fetch {URL}{path.name} again.") from None
    head = 4 + 4 * len(shape)  # a magic number, then the shape, as 32-bit numbers
    if len(data) != head + int(np.prod(shape)):
        raise ValueError(
            f"mnist: {path} holds {len(data)} bytes, expected {head + int(np.prod(shape))}. "
            f"Delete it and fetch {URL}{path.name} again."
        )
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
