"""What the tables of searches train on: MNIST's and Fashion-MNIST's pictures made small; and files of their form."""

import gzip
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

Parts = dict[str, tuple[Tensor, Tensor]]


def idx(path: Path, first: int = 0, many: int | None = None) -> np.ndarray:
    """The `many` entries from the first on, all that follow unless given; what is behind them is not unpacked."""
    with gzip.open(path) as file:
        axes = file.read(4)[3]
        n, *shape = np.frombuffer(file.read(4 * axes), ">i4").tolist()
        many, size = n - first if many is None else many, int(np.prod(shape, dtype=int))
        file.read(first * size)
        return np.frombuffer(file.read(many * size), np.uint8).reshape(many, *shape)


def shrunk(name: str, by: int, train: int, validation: int, test: int, *, others: bool = False) -> Parts:
    """x [n, 1, 28 / by, 28 / by], means of `by` x `by` pixels, of mean 0 and variance 1 over all training pixels, and
    classes [n]: the first pictures of each file; others: the next ones, which share none with the first."""
    folder, parts, side = Path(os.environ["METALOOP_DATA"]) / name, {}, 28 // by
    for kind, many in (("train", train + validation), ("t10k", test)):
        first = many if others else 0
        x = idx(folder / f"{kind}-images-idx3-ubyte.gz", first, many)
        y = idx(folder / f"{kind}-labels-idx1-ubyte.gz", first, many)
        x = x.reshape(many, 1, side, by, side, by).mean((3, 5))
        parts[kind] = torch.tensor(x, dtype=torch.float32), torch.tensor(y.astype(np.int64))
    (x, y), (x_test, y_test) = parts["train"], parts["t10k"]
    mean, spread = x[:train].mean(), x[:train].std()
    x, x_test = (x - mean) / spread, (x_test - mean) / spread
    return {"train": (x[:train], y[:train]), "validation": (x[train:], y[train:]), "test": (x_test, y_test)}
