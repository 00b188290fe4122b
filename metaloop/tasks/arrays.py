"""Pools of arrays of one's own: feature vectors, tables, embeddings, spectra, pictures that are arrays already."""

import mmap
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .divide import FRACTIONS, PARTS, Split, classes_of, divided
from .pool import ClassPool, Pool, Splits


def arrays(
    X: Any, y: Any, *, groups: Any = None, split: Split = FRACTIONS, seed: int = 0, name: str = "arrays"
) -> Pool:
    """A pool of the examples X [n, ...] with labels y [n], in classes of any number and size.

    X: a numpy array, a torch tensor, or what numpy makes an array of: bytes, dealt as float32 in [0, 1], or numbers,
        dealt as float32, as they are. One that lies on disk (`numpy.load(file, mmap_mode="r")`) stays there.
    y: words, numbers, bools, dates or whatever else can be hashed, or several of these.
    split: which classes are for train, val and test: three fractions, dealt out by `seed`, each at least two classes
        unless its fraction is 0; or their names, {"train": [...], "val": [...], "test": [...]}; or a folder of such
        lists (train.txt, a name in each line); or the part of each example, [n]; or None, all classes for each.
    groups: [n], what each class is one of (a domain, a superclass): no group is then in two parts.
    Raises ValueError, in one line, on X and y that are not of one length, values or labels that are missing, and a
    split that cannot be.

    >>> pool = arrays([[0.0], [0.1], [1.0], [1.1]], ["low", "low", "high", "high"], split=None)
    >>> pool.names, pool.sample(ways=2, shots=1, queries=1).support.x.shape
    (['high', 'low'], torch.Size([1, 2, 1]))
    """
    call = "arrays"
    x, release = _examples(call, X)
    names, labels = classes_of(call, y)
    if len(x) != len(labels):
        raise ValueError(f"{call}: {len(x)} examples in X, {len(labels)} labels in y; one each.")
    parts = divided(call, names, split, seed, y=labels, groups=groups)
    return pool_of(x, labels, names, parts, name=name, release=release)


def pool_of(
    x: Tensor, y: Tensor, names: list[str], parts: list[list[int]] | None, *, name: str,
    release: Callable[[], Any] | None = None,
) -> Pool:  # fmt: skip
    """The pool of examples x with classes y in 0 .. len(names)-1, and of what classes each part is. x is not copied.
    y of -1: an example that is left out."""
    order, counts = y.argsort(stable=True), y[y >= 0].bincount(minlength=len(names))
    order = order[int((y < 0).sum()) :]
    first = counts.cumsum(0) - counts

    def part(chosen: list[int], split: str) -> ClassPool:
        rows = [order[int(first[k]) : int(first[k] + counts[k])] for k in chosen]
        return ClassPool(
            x, counts[chosen], [names[k] for k in chosen], name=name, split=split,
            rows=torch.cat(rows) if rows else order[:0], release=release,
        )  # fmt: skip

    if parts is None:
        return part([*range(len(names))], "")
    return Splits(*(part(chosen, split) for chosen, split in zip(parts, PARTS, strict=True)))


def _examples(call: str, X: Any) -> tuple[Tensor, Callable[[], Any] | None]:
    """X as a tensor, of bytes or of floats; if it is on disk, how to give back the memory of what was read of it."""
    if hasattr(X, "toarray") or (isinstance(X, Tensor) and X.layout != torch.strided):
        raise ValueError(f"{call}: X is sparse. Give a dense array: X.toarray(), or X.to_dense() in torch.")
    if np.ma.is_masked(X):
        raise ValueError(f"{call}: X is masked in places. Fill them: X.filled(0), say.")
    if isinstance(X, Tensor):
        x = X.detach()
    else:
        try:
            array = np.asarray(X)
        except (ValueError, TypeError):
            raise ValueError(f"{call}: X is no array, expected examples of one shape.") from None
        if array.dtype.kind not in "biuf":
            raise ValueError(f"{call}: X holds {array.dtype.name}, expected numbers. `tasks.texts` reads words, "
                             "`tasks.table` columns of several kinds.")  # fmt: skip
        if array.dtype.kind == "u" and array.dtype.itemsize > 1:
            array = array.astype(np.int64)
        if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # torch has no long doubles
            array = array.astype(np.float64)
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if min(array.strides, default=0) < 0:
            array = np.ascontiguousarray(array)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of arrays that must not be written to: nothing here does
            x = torch.from_numpy(array)
    if x.ndim < 2 or x.numel() == 0:
        raise ValueError(f"{call}: X has shape {tuple(x.shape)}, expected [n, ...]: for numbers X.reshape(-1, 1).")
    if x.is_complex():
        raise ValueError(f"{call}: X holds complex numbers. Take their real and imaginary parts.")
    if x.dtype != torch.uint8 and not x.is_floating_point():
        x = x.float()
    file = _file(X)
    if x.is_floating_point():
        step = max(1, 2**24 // max(1, x[0].numel()))
        for start in range(0, len(x), step):
            if not x[start : start + step].float().isfinite().all():  # as they are dealt
                raise ValueError(f"{call}: X holds values that are not finite (NaN or infinite), or too large for "
                                 "float32. `tasks.table` reads tables with missing values.")  # fmt: skip
            if file is not None:
                let_go(file)
    return x, None if file is None else lambda: let_go(file)


def _file(X: Any) -> mmap.mmap | None:
    """The file that an array's numbers lie in, where they do."""
    while X is not None and not isinstance(X, mmap.mmap):
        X = getattr(X, "base", None)
    return X


def let_go(file: mmap.mmap) -> None:
    """Take a file's pages out of this process's memory; they are read again when they are wanted."""
    if hasattr(file, "madvise") and hasattr(mmap, "MADV_DONTNEED"):
        file.madvise(mmap.MADV_DONTNEED)
