"""Data of your own in files: lists of pictures, tables, texts; and torch Datasets."""

import csv
import gzip
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arrays import arrays, pool_of
from .decode import opaque
from .divide import FRACTIONS, Split, classes_of, divided
from .images import check_options, folder, of_files
from .pickled import ENDINGS, from_pickle
from .pool import Pool
from .reading import is_image

GROUPED = re.compile(r"[-+]?(\d+,\d+|\d{1,3}(?:([ .,'\u00a0\u202f])\d{3})(?:\2\d{3})*(?:[.,]\d+)?)")  # 1,5 or 1 234
LABELS = ("label", "class", "category", "target", "intent", "y")  # what a column of labels is called, if nobody says
PATHS = ("path", "file", "filename", "image", "filepath")
TEXTS = ("text", "sentence", "utterance", "document", "content")
SPLIT = ("split", "part", "fold", "subset")
MISSING = ("", "na", "n/a", "nan", "null", "none", "?")
TABLES = (".csv", ".tsv", ".tab", ".parquet", ".pq")
Rows = dict[str, list[Any]]


# ---- lists of pictures


def listed(
    path: str | os.PathLike, *, label: str | None = None, root: str | os.PathLike | None = None,
    size: int | None = None, channels: int | None = None, split: Split = FRACTIONS, seed: int = 0,
    invert: bool | str = "auto",
) -> Pool:  # fmt: skip
    """A pool of the pictures that a CSV or Parquet file lists: a column of their paths, one of their labels, and, if it
    is there, one of their splits (train, val, test), which then decides.

    Columns are known by their names: path, file, filename or image; label, class, category or target, unless `label`
    names it; split. Parquet needs pyarrow (extra `parquet`).
    root: where paths begin that are not absolute; the file's own folder unless given.
    Everything else is as `folder` has it. Raises ValueError, in one line, if a column is not there, or no picture of a
    class can be read.
    """
    path = Path(path)
    call = f"listed({str(path)!r})"
    check_options(call, size, channels, invert)
    rows = read_rows(call, path)
    where, of = _column(call, rows, PATHS, None, "paths"), _column(call, rows, LABELS, label, "labels")
    begin = Path(root) if root is not None else path.parent
    whole = _whole(call, rows, [where, of])
    files = [begin / str(rows[where][i]) for i in whole]
    if gone := [file for file in files if not file.is_file()]:
        raise ValueError(f"{call}: {len(gone)} of {len(files)} pictures are not there, the first {gone[0]}. "
                         "Say where paths begin by root=.")  # fmt: skip
    names, y = classes_of(call, [rows[of][i] for i in whole])
    parts = divided(call, names, _split_of(rows, whole, split), seed, y=y)
    how: dict[str, Any] = {"size": size, "channels": channels, "invert": invert, "name": path.stem}
    return of_files(call, "listed", [*zip(files, y.tolist(), strict=True)], names, parts, **how)


# ---- tables


def table(
    path: str | os.PathLike, *, label: str | None = None, split: Split = FRACTIONS, seed: int = 0,
    standardize: bool = True,
) -> Pool:  # fmt: skip
    """A pool of the rows of a CSV, TSV or Parquet table, in classes by a column of labels.

    label: its name; label, class, category, target or y unless given. A column `split` is no feature, and decides.
    Columns of numbers are features as they are; other columns are categories, one feature for each value that they
    have, 1 or 0. What is missing (empty, NA, NaN, null, ?) is the mean of its column, or no category, and a further
    feature says so; one warning tells in which columns, and how many. Rows without a label are left out, and told.
    standardize: columns of numbers have mean 0 and deviation 1 over the training part.
    split, seed: as `arrays` has them. Raises ValueError, in one line, if the table is damaged or a column is not there.
    """
    path = Path(path)
    call = f"table({str(path)!r})"
    rows = read_rows(call, path)
    of = _column(call, rows, LABELS, label, "labels")
    part = _found(rows, SPLIT)
    features = [name for name in rows if name not in (of, part)]
    if not features:
        raise ValueError(f"{call}: there is no column beside {of!r}.")
    whole = _whole(call, rows, [of])
    names, y = classes_of(call, [rows[of][i] for i in whole])
    parts = divided(call, names, _split_of(rows, whole, split), seed, y=y)
    train = torch.isin(y, torch.tensor(parts[0])).numpy() if parts is not None else np.ones(len(y), bool)
    columns, lacking = [], []
    for name in features:
        told = [rows[name][i] for i in whole]
        missing = np.array([_missing(value) for value in told])
        if any(isinstance(value, list | dict) for value in told):
            raise ValueError(f"{call}: column {name!r} holds lists or tables. `tasks.arrays` takes vectors.")
        if missing.any():
            lacking.append(f"{name} ({int(missing.sum())})")
        if (numbers := _numbers(told, missing)) is not None:
            if not np.isfinite(numbers).all():
                raise ValueError(f"{call}: column {name!r} holds a number that is infinite.")
            mean = numbers[train & ~missing].mean() if (train & ~missing).any() else 0.0
            numbers = np.where(missing, mean, numbers)
            if standardize:
                with np.errstate(over="ignore", invalid="ignore"):
                    numbers = (numbers - mean) / (numbers[train].std() or 1.0)
            if not (np.abs(numbers) <= np.finfo(np.float32).max).all() or not np.isfinite(mean):
                raise ValueError(f"{call}: column {name!r} holds numbers that are too large.")
            columns.append(numbers)
        else:
            values = sorted({str(value) for value, lacks in zip(told, missing, strict=True) if not lacks})
            marked = next((value for value in values if GROUPED.fullmatch(value)), None)
            if marked and all(GROUPED.fullmatch(value) or re.fullmatch(r"[-+]?\d+", value) for value in values):
                raise ValueError(f"{call}: column {name!r} holds numbers such as {marked!r}. Write them with a "
                                 "decimal point, and no marks between thousands.")  # fmt: skip
            columns += [np.array([str(value) == each for value in told]) & ~missing for each in values]
        if missing.any() and not missing.all():
            columns.append(missing)
    if lacking:
        few = ", ".join(lacking[:5]) + (f" and {len(lacking) - 5} more" if len(lacking) > 5 else "")
        warnings.warn(f"{call}: values are missing in {few}; a feature for each says where.", stacklevel=2)
    x = torch.from_numpy(np.stack(columns, 1).astype(np.float32))
    return pool_of(x, y, names, parts, name=path.stem)


# ---- texts


def texts(
    path: str | os.PathLike, *, features: Callable[[list[str]], Any] | None = None, label: str | None = None,
    split: Split = FRACTIONS, seed: int = 0,
) -> Pool:  # fmt: skip
    """A pool of texts, as vectors: of a folder with one sub-folder of text files per class, or of a CSV, TSV or Parquet
    file with a column of texts and one of labels (and of splits, which then decide).

    features: texts -> [n, d], what makes vectors of them; `hashed_words` unless given.
    split, seed: as `arrays` has them. Raises ValueError, in one line, on files that are no text, and as `arrays` does.
    """
    words, labels, parts = read_texts(path, label=label)
    x = (features or hashed_words)(words)
    return arrays(x, labels, split=parts if parts is not None and split is not None else split, seed=seed,
                  name=Path(path).resolve().stem)  # fmt: skip


def read_texts(
    path: str | os.PathLike, *, label: str | None = None
) -> tuple[list[str], list[str], list[str] | None]:  # fmt: skip
    """The texts at a path, as `texts` has it, their labels, and the split of each, where it is told."""
    path = Path(path)
    call = f"texts({str(path)!r})"
    if path.is_dir():
        classes = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
        if len(classes) < 2:
            raise ValueError(f"{call}: make one sub-folder of text files per class, at least two.")
        files = [(file, place.name) for place in classes for file in sorted(place.iterdir())
                 if file.is_file() and not file.name.startswith(".")]  # fmt: skip
        if empty := sorted({place.name for place in classes} - {name for _, name in files}):
            raise ValueError(f"{call}: class {empty[0]!r} has no text file. Add some or remove it.")
        return [_text(call, file) for file, _ in files], [name for _, name in files], None
    rows = read_rows(call, path)
    of = _column(call, rows, LABELS, label, "labels")
    where = _column(call, {name: v for name, v in rows.items() if name != of}, TEXTS, None, "texts")
    whole = _whole(call, rows, [where, of])
    part = _found(rows, SPLIT)
    parts = None if part is None else [str(rows[part][i]) for i in whole]
    return [str(rows[where][i]) for i in whole], [str(rows[of][i]) for i in whole], parts


def hashed_words(texts: Sequence[str], numbers: int = 1024) -> Tensor:
    """Words and pairs of words counted in `numbers` places that their hashes choose, of length 1: float32 [n, numbers].

    Nothing is learned, so nothing can leak from one part of the data to another.
    """
    from sklearn.feature_extraction.text import HashingVectorizer

    count: Any = HashingVectorizer(n_features=numbers, ngram_range=(1, 2), norm="l2")
    return torch.from_numpy(count.transform([*texts]).toarray()).float()


def _text(call: str, file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"{call}: {file} is no text (UTF-8).") from None


# ---- torch Datasets


def dataset(data: Any, *, split: Split = FRACTIONS, seed: int = 0, name: str | None = None) -> Pool:
    """A pool of any torch Dataset of fixed length that gives (example, label, ...), read once, whole, into memory.

    Examples are tensors, arrays or pictures of Pillow, of one shape; transforms that draw are drawn once.
    split, seed: as `arrays` has them. Raises ValueError, in one line, if it gives something else.
    """
    call = f"dataset({type(data).__name__})"
    try:
        n = len(data)
    except TypeError:
        raise ValueError(f"{call}: it has no length. A stream has no classes to draw from; gather it first.") from None
    examples, labels = [], []
    if not hasattr(data, "__getitem__"):
        raise ValueError(f"{call}: it gives no item by its number. Give the Dataset itself.")
    for i in range(n):
        item = data[i]
        if not isinstance(item, tuple | list) or len(item) < 2:
            raise ValueError(f"{call}: item {i} is a {type(item).__name__}, expected (example, label).")
        x, y = item[:2]
        if hasattr(x, "convert") and hasattr(x, "getbands"):  # Pillow's
            x = opaque(x)
            x = np.atleast_3d(np.asarray(x if x.mode in ("L", "RGB") else x.convert("RGB"))).transpose(2, 0, 1)
        try:
            x = x if isinstance(x, Tensor) else torch.as_tensor(np.array(x))
        except (TypeError, ValueError):
            kind = type(x).__name__
            raise ValueError(f"{call}: example {i} is a {kind}, expected a tensor, an array or a picture.") from None
        if examples and x.shape != examples[0].shape:
            shapes = [" x ".join(map(str, t.shape)) or "one number" for t in (examples[0], x)]
            raise ValueError(f"{call}: example {i} is of {shapes[1]}, the first of {shapes[0]}. Resize them to one.")
        examples.append(x if x.ndim else x[None])
        if getattr(y, "ndim", 0) and len(y) != 1:
            raise ValueError(f"{call}: the label of item {i} is of {len(y)} numbers, expected one word or number.")
        labels.append(y.item() if hasattr(y, "item") else y)
    if not examples:
        raise ValueError(f"{call}: it is empty.")
    return arrays(torch.stack(examples), labels, split=split, seed=seed, name=name or type(data).__name__)


# ---- whatever lies at a path


def own(path: str | os.PathLike, *, split: Split = FRACTIONS, seed: int = 0, **how: Any) -> Pool:
    """The pool of whatever lies at a path: what `--data` of the command line takes.

    A folder of pictures (`folder`), of text files (`texts`) or of pickles (`from_pickle`), one pickle, or a CSV, TSV or
    Parquet file: of pictures, where a column is called path, file, filename or image (`listed`), of texts, where one is
    called text, sentence or utterance (`texts`), and else a table (`table`). how: further options of that one; size and
    channels are left out where there are no pictures.
    """
    path = Path(path)
    pictures = how
    how = {name: value for name, value in how.items() if name not in ("size", "channels")}
    if path.is_dir():
        if any(p.suffix.lower() in ENDINGS for p in path.iterdir()):
            return from_pickle(path, split=split, seed=seed, **how)
        places = [p for p in sorted(path.iterdir()) if p.is_dir() and not p.name.startswith(".")]
        first = next((f for p in places for f in sorted(p.iterdir()) if f.is_file() and f.name[0] != "."), None)
        if first is not None and first.suffix.lower() in (".txt", ".text", ".md") and not is_image(first):
            return texts(path, split=split, seed=seed, **how)
        return folder(path, split=split, seed=seed, **pictures)
    if path.suffix.lower() in ENDINGS:
        return from_pickle(path, split=split, seed=seed, **how)
    if path.suffix.lower() not in TABLES:
        raise ValueError(f"{path} is no data: expected a folder, or a file {', '.join((*TABLES, *ENDINGS))}.")
    rows = read_rows(f"own({str(path)!r})", path)
    if _found(rows, PATHS) is not None:
        return listed(path, split=split, seed=seed, **pictures)
    return (texts if _found(rows, TEXTS) is not None else table)(path, split=split, seed=seed, **how)


# ---- rows and columns


def read_rows(call: str, path: Path) -> Rows:
    """A table by its columns; packed by gzip too, as `.tsv.gz`. Raises ValueError if there is none, or a row is of
    another length than the first."""
    if not path.is_file():
        raise ValueError(f"{call}: no such file.")
    if path.suffix.lower() in (".parquet", ".pq"):
        return _parquet(call, path)
    packed = path.suffix.lower() == ".gz"
    try:
        with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig") as file:
            text = file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{call}: it is damaged ({error}).") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{call}: it is no text in UTF-8 (byte {error.start}). Save it as UTF-8.") from None
    first = text.partition("\n")[0]
    kind = (path.with_suffix("") if packed else path).suffix.lower()
    mark = "\t" if kind in (".tsv", ".tab") else max(",;\t", key=first.count)
    try:
        lines = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=mark, strict=True) if row]
    except csv.Error as error:
        raise ValueError(f"{call}: it is damaged ({error}).") from None
    if len(lines) < 2:
        raise ValueError(f"{call}: there are no rows below the names of the columns.")
    head, *rows = lines
    head = [name.strip() for name in head]
    if twice := [name for i, name in enumerate(head) if name in head[:i]]:
        raise ValueError(f"{call}: two columns are called {twice[0]!r}.")
    for i, row in enumerate(rows):
        if len(row) != len(head):
            raise ValueError(f"{call}: row {i + 1} has {len(row)} cells, there are {len(head)} columns.")
    return {name: [*column] for name, column in zip(head, zip(*rows, strict=True), strict=True)}


def _parquet(call: str, path: Path) -> Rows:
    try:
        import pyarrow.parquet as parquet  # type: ignore[import-not-found]
    except ImportError:
        how = "pip install 'metaloop[parquet]', or save it as CSV"
        raise ValueError(f"{call}: Parquet files need pyarrow: {how}.") from None
    try:
        rows = parquet.read_table(path).to_pydict()
    except Exception as error:  # what pyarrow raises for damaged files has no common base
        raise ValueError(f"{call}: it is damaged ({str(error).partition(chr(10))[0]}).") from None
    if not rows or not len(next(iter(rows.values()))):
        raise ValueError(f"{call}: there are no rows.")
    return rows


def _found(rows: Iterable[str], names: Sequence[str]) -> str | None:
    """The column of one of the names; that of the earlier if there are several."""
    known = {column.lower(): column for column in rows}
    return next((known[name] for name in names if name in known), None)


def _column(call: str, rows: Rows, names: Sequence[str], asked: str | None, what: str) -> str:
    if asked is not None and asked in rows:
        return asked
    found = None if asked is not None else _found(rows, names)
    if found is None:
        there = ", ".join(map(repr, [*rows][:8])) + (", ..." if len(rows) > 8 else "")
        wanted = repr(asked) if asked is not None else f"called {', '.join(names)}"
        say = " Name it by label=." if what == "labels" and asked is None else ""
        raise ValueError(f"{call}: no column of {what} {wanted}. There are {there}.{say}")
    return found


def _whole(call: str, rows: Rows, needed: list[str]) -> list[int]:
    """The rows in which nothing needed is missing; the others are told."""
    n = len(rows[needed[0]])
    whole = [i for i in range(n) if not any(_absent(rows[name][i]) for name in needed)]
    if not whole:
        raise ValueError(f"{call}: every row lacks {' or '.join(map(repr, needed))}.")
    if len(whole) < n:
        lost = f"{n - len(whole)} of {n} rows lack {' or '.join(map(repr, needed))}"
        warnings.warn(f"{call}: {lost}, and are left out.", stacklevel=3)
    return whole


def _split_of(rows: Rows, whole: list[int], split: Split) -> Split:
    part = _found(rows, SPLIT)
    return split if part is None or split is None else [str(rows[part][i]) for i in whole]


def _absent(value: Any) -> bool:
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def _missing(value: Any) -> bool:
    return _absent(value) or (isinstance(value, str) and value.strip().lower() in MISSING)


def _numbers(told: list[Any], missing: np.ndarray) -> np.ndarray | None:
    """The column as numbers, 0 where they are missing; None if it holds words."""
    try:
        return np.array([0.0 if lacks else float(value) for value, lacks in zip(told, missing, strict=True)])
    except (ValueError, TypeError):
        return None
