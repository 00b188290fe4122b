"""Labels of any type as classes, and which classes are for meta-training, validation and test."""

import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

PARTS = ("train", "val", "test")
ALSO = {"valid": "val", "validation": "val", "dev": "val"}  # what others call them
FRACTIONS = (0.6, 0.2, 0.2)

Split = tuple[float, float, float] | Mapping[str, Iterable[Any]] | str | os.PathLike | Sequence[str] | None


def classes_of(call: str, y: Any) -> tuple[list[str], Tensor]:
    """The classes' names in order, and the class of each label, int64 [n]. Labels are words, numbers, bools or whatever
    else can be hashed (dates, members of an Enum), or several of these, which are then ordered kind by kind.

    Raises ValueError on labels that are none, missing, or not one for each example.
    """
    if isinstance(y, Tensor):
        y = y.detach().cpu().numpy()
    several = isinstance(y, list | tuple) and len({type(label) for label in y}) > 1
    try:
        labels = np.array(y, dtype=object) if several else np.asarray(y)
    except (ValueError, TypeError):
        raise ValueError(f"{call}: y is no array, expected one label for each example.") from None
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(f"{call}: y has shape {labels.shape}, expected one label for each example.")
    if labels.dtype.kind in "biufSU":
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError(f"{call}: a label is missing (NaN or infinite).")
        known, index = np.unique(labels, return_inverse=True)
        return _named(known.tolist()), torch.from_numpy(index.reshape(-1).astype(np.int64))
    told = [*labels] if labels.dtype.kind in "mM" else labels.tolist()  # numpy's dates, which tolist makes numbers of
    for label in told:
        if label is None or label != label or not isinstance(label, Hashable):
            raise ValueError(f"{call}: a label is {label!r}, expected a word or a number for each example.")
    kinds = {
        (type(k).__name__, k): (isinstance(k, str | bytes), "" if isinstance(k, int | float) else type(k).__name__, k)
        for k in told
    }
    order = in_order(kinds)
    place = {key: i for i, key in enumerate(order)}
    return _named([k for _, k in order]), torch.tensor([place[type(k).__name__, k] for k in told])


def in_order(kinds: dict[Any, tuple]) -> list[Any]:
    """Labels by their kinds, then by themselves; those that know no order by their words."""
    try:
        return sorted(kinds, key=lambda key: kinds[key])
    except TypeError:
        return sorted(kinds, key=lambda key: (*kinds[key][:-1], str(kinds[key][-1])))


def _named(labels: list[Any]) -> list[str]:
    """Each label in words; where two of several types read alike, as Python writes them."""
    words = [k.decode("utf-8", "replace") if isinstance(k, bytes) else str(k) for k in labels]
    return words if len({*words}) == len(words) else [repr(k) for k in labels]


def divided(
    call: str, names: list[str], split: Split, seed: int, *, y: Tensor | None = None, groups: Any = None
) -> list[list[int]] | None:
    """The classes of train, val and test, by their numbers; None for all in each.

    split: three fractions, of the classes, dealt out by `seed`; or the classes' names by part; or a folder of lists,
        train.txt, val.txt and test.txt, a name in each line; or the part of each example, beside the class y of each.
    groups: of each example, if not None: the classes of one group then stay in one part, and fractions are of groups.
    Raises ValueError if a class would be in two parts, a part names an unknown class, or there are too few.
    """
    if split is None:
        return None
    if isinstance(split, str | os.PathLike):
        split = _lists(call, Path(split))
    if isinstance(split, Mapping):
        return _by_name(call, names, split)
    if not hasattr(split, "__len__"):
        raise _no_fractions(call, split)
    if len(split) == 3 and all(isinstance(share, int | float) and not isinstance(share, bool) for share in split):
        return _by_fractions(call, names, split, seed, y, groups)  # type: ignore[arg-type]
    if y is None:
        raise _no_fractions(call, split)
    return _by_example(call, names, split, y)  # type: ignore[arg-type]


def part_named(call: str, word: Any) -> str:
    """The part that somebody calls so. Raises ValueError if it is none."""
    part = str(word).strip().lower()
    part = ALSO.get(part, part)
    if part not in PARTS:
        raise ValueError(f"{call}: an example's split is {word!r}, expected train, val or test.")
    return part


def _no_fractions(call: str, split: Any) -> ValueError:
    return ValueError(f"{call}: got {split=}, expected three fractions, the first above 0, of sum 1; or None.")


def _by_fractions(call, names, split, seed: int, y, groups) -> list[list[int]]:
    if not (all(share >= 0 for share in split) and split[0] > 0 and abs(sum(split) - 1) <= 1e-6):
        raise _no_fractions(call, split)
    if groups is None:
        whole = [[k] for k in range(len(names))]
    else:
        found, group = classes_of(f"{call}: groups", groups)
        if y is None or len(group) != len(y):
            raise ValueError(f"{call}: groups has {len(group)} entries, expected one for each example.")
        table = torch.zeros(len(names), len(found), dtype=torch.bool)
        table[y, group] = True
        if len(twice := (table.sum(1) > 1).nonzero()[:, 0]):
            k = int(twice[0])
            theirs = ", ".join(found[g] for g in table[k].nonzero()[:2, 0].tolist())
            raise ValueError(f"{call}: class {names[k]!r} is in several groups ({theirs}). A class belongs to one.")
        whole = [table[:, g].nonzero()[:, 0].tolist() for g in range(len(found))]
    of, least = ("classes", 2) if groups is None else ("groups", 1)
    val, test = (max(least, round(len(whole) * share)) if share else 0 for share in split[1:])
    train = len(whole) - val - test
    if train < least:
        raise ValueError(
            f"{call}: {len(whole)} {of} are too few for {split=}, which puts {'two' if least == 2 else 'one'} or more "
            f"into each part. Add {of}, or use all for everything with split=None."
        )
    order = np.random.RandomState(seed).permutation(len(whole)).tolist()
    bounds = (0, train, train + val, len(whole))
    return [sorted(k for g in order[low:high] for k in whole[g]) for low, high in pairwise(bounds)]


def _by_name(call: str, names: list[str], split: Mapping[str, Iterable[Any]]) -> list[list[int]]:
    place, parts, where = {name: k for k, name in enumerate(names)}, {part: [] for part in PARTS}, {}
    for word, chosen in split.items():
        part = part_named(call, word)
        for name in [chosen] if isinstance(chosen, str) else chosen:
            if str(name) not in place:
                raise ValueError(f"{call}: the {part} classes name {str(name)!r}, of which there is no example.")
            k = place[str(name)]
            if where.setdefault(k, part) != part:
                raise ValueError(f"{call}: class {names[k]!r} is in {where[k]} and in {part}. {APART}")
            parts[part].append(k)
    return _filled(call, [sorted({*parts[part]}) for part in PARTS])


def _by_example(call: str, names: list[str], split: Sequence[Any], y: Tensor) -> list[list[int]]:
    if len(split) != len(y):
        raise ValueError(f"{call}: split has {len(split)} entries, expected one for each of {len(y)} examples.")
    words = [part_named(call, word) for word in split]
    table = torch.zeros(len(names), 3, dtype=torch.bool)
    table[y, torch.tensor([PARTS.index(word) for word in words])] = True
    if len(twice := (table.sum(1) > 1).nonzero()[:, 0]):
        k = int(twice[0])
        theirs = " and ".join(PARTS[p] for p in table[k].nonzero()[:2, 0].tolist())
        raise ValueError(f"{call}: class {names[k]!r} is in {theirs}. {APART}")
    return _filled(call, [table[:, p].nonzero()[:, 0].tolist() for p in range(3)])


APART = (
    "Meta-test asks about classes that training has not seen: give each class to one part, or take split=None for all."
)


def _filled(call: str, parts: list[list[int]]) -> list[list[int]]:
    if not parts[0]:
        raise ValueError(f"{call}: the split has no class for train.")
    return parts


def _lists(call: str, folder: Path) -> dict[str, list[str]]:
    files = {part: folder / f"{part}.txt" for part in PARTS}
    if not files["train"].is_file():
        raise ValueError(f"{call}: split={str(folder)!r} holds no train.txt. Make train.txt, val.txt and test.txt "
                         "there, a class name in each line.")  # fmt: skip
    return {part: [line.strip() for line in file.read_text("utf-8").splitlines() if line.strip()]
            for part, file in files.items() if file.is_file()}  # fmt: skip
