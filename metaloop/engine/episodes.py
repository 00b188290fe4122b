"""Test tasks as a file, by which two people score the very same ones: which examples of which classes, no pixels.

    {"episodes": 1, "data": name, "shape": [1, 28, 28], "ways": 5, "shots": 1, "queries": 15,
     "classes": [[name, examples, digest], ...],
     "tasks": [[[[y, class, example], ...], [[y, class, example], ...]], ...]}

A task is its support set and its queries, in their order; class counts along `classes`, example along the class's own
in the order that the pool reads them in (that of their paths). So it must be the same data, read alike: the number of
examples of each class is checked, and a digest of what they look like.
"""

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..core import Data, Task
from ..torch_private import pytree
from .checkpoint import write_bytes
from .evaluate import BLOCK
from .schema import conform, read_json
from .seeds import generator

if TYPE_CHECKING:
    from ..tasks.pool import Pool


@dataclass
class _Told:
    """What a file says."""

    ways: int
    shots: int | list[int]
    queries: int | list[int]
    classes: list[list[str | int]]
    tasks: list[list[list[list[int]]]]
    data: str = ""
    shape: list[int] = field(default_factory=list)

    def __post_init__(self):
        for name, n in (("ways", self.ways), ("shots", self.shots), ("queries", self.queries)):
            low, high = (n, n) if isinstance(n, int) else n if len(n) == 2 else (0, 0)
            if not 1 <= low <= high < 2**31:
                raise ValueError(f"'{name}' is {n}")
        if any([type(part) for part in one] != [str, int, str] for one in self.classes):
            raise ValueError("a class is not its name, number of examples and digest")


def write_episodes(
    path: str | Path, pool: "Pool", *, tasks: int = 1000, ways: int = 5, shots: int | tuple[int, int] = 1,
    queries: int | tuple[int, int] = 15, seed: int = 0, split: str = "test",
) -> None:  # fmt: skip
    """Write the tasks that `evaluate` with these arguments would draw.

    Raises ValueError if the pool has no fixed list of examples, or cannot deal such tasks.
    """
    if tasks < 1:
        raise ValueError(f"write_episodes: tasks={tasks}, expected at least 1.")
    part = _of_examples("write_episodes", pool, split)
    block = lambda b: part.draw(BLOCK, ways, shots, queries, generator(seed, "test", b))
    drawn = pytree.tree_map(lambda *t: torch.cat(t)[:tasks], *map(block, range(-(-tasks // BLOCK))))
    told = {
        "episodes": 1, "data": part.name, "shape": part.shape, "ways": ways, "shots": shots, "queries": queries,
        "classes": _classes(part),
        "tasks": [[_rows(part, data.x[i], data.y[i]) for data in drawn] for i in range(tasks)],
    }  # fmt: skip
    write_bytes(Path(path), json.dumps(told, separators=(",", ":")).encode())


def read_episodes(path: str | Path, pool: "Pool", *, split: str = "test") -> Any:
    """A pool of the tasks in a file, of the same data's examples: each split of it deals them, in order.

    Raises ValueError if the file is damaged, or of other data: if a class is not there or has another number of
    examples. Warns if they look otherwise (another version of Pillow may decode them so; or they are others).
    """
    part = _of_examples("read_episodes", pool, split)
    whole = conform(read_json(Path(path)), dict[str, Any], str(path))
    if "episodes" not in whole:
        raise ValueError(f"{path} holds no episodes. `metaloop episodes` writes such files.")
    if whole["episodes"] != 1:
        raise ValueError(f"{path} is of a later version: episodes {whole['episodes']!r}.")
    told = conform(whole, _Told, str(path))
    episode = {name: _number(getattr(told, name)) for name in ("ways", "shots", "queries")}
    classes, listed = [(str(n), int(k), str(d)) for n, k, d in told.classes], told.tasks
    place = {name: k for k, name in enumerate(part.names)}
    where, otherwise, ours = [], [], _classes(part)
    for name, n, digest in classes:
        if name not in place or (has := ours[place[name]][1]) != n:
            found = "has no such class" if name not in place else f"has {has} of it"
            theirs = f"{told.data} with {n} examples of class {name!r}"
            raise ValueError(f"{path} is of {theirs}; {part.name} {found}.")
        where.append(place[name])
        otherwise += [name] if ours[place[name]][2] != digest else []
    if otherwise and told.shape == [*part.shape]:
        warnings.warn(
            f"{path}: the examples of {len(otherwise)} classes ({otherwise[0]}, ...) are other ones than it was "
            "written for, or were decoded otherwise.", stacklevel=2,
        )  # fmt: skip
    try:
        sets = [[_places(part, where, rows) for rows in task] for task in listed]
        if any(len(task) != 2 for task in sets) or not sets:
            raise ValueError
        parts = [_filled([task[i] for task in sets]) for i in range(2)]
    except (IndexError, TypeError, ValueError):
        raise ValueError(f"{path} is damaged: a task names an example that is not there.") from None
    return part.fixed(Task(*parts), **episode)


def _of_examples(call: str, pool: "Pool", split: str) -> Any:
    if split not in ("train", "val", "test"):
        raise ValueError(f"{call}: split={split!r}, expected 'train', 'val' or 'test'.")
    part = getattr(pool, split)
    if not hasattr(part, "draw"):
        raise ValueError(f"{call}: {part.name} is no pool of listed examples, whose tasks a file could name.")
    if len({*part.names}) < len(part.names):
        raise ValueError(f"{call}: two classes of {part.name} have one name.")
    return part


def _classes(part: Any) -> list[list[Any]]:
    return [[name, n, digest] for name, n, digest in zip(part.names, part.counts.tolist(), part.digests(), strict=True)]


def _number(n: Any) -> int | tuple[int, int]:
    return (int(n[0]), int(n[1])) if isinstance(n, list) else int(n)


def _rows(part: Any, places: Tensor, y: Tensor) -> list[list[int]]:
    """[y, class, example] of each example; with quarter turns those after the first count on."""
    places, y = places[y >= 0], y[y >= 0]
    turn, flat = places // part.each_turn, places % part.each_turn
    k = torch.searchsorted(part.first, flat, right=True) - 1
    example = flat - part.first[k] + turn * part.counts[k]
    return torch.stack([y, k, example], 1).tolist()


def _places(part: Any, where: list[int], rows: list[list[int]]) -> tuple[Tensor, Tensor]:
    y, k, example = torch.tensor(rows, dtype=torch.long).T
    if min(map(int, (y.min(), k.min(), example.min()))) < 0:
        raise IndexError
    k = torch.tensor(where)[k]
    turn, i = example // part.counts[k], example % part.counts[k]
    if int(turn.max()) >= part.turns:
        raise IndexError
    return part.first[k] + i + turn * part.each_turn, y


def _filled(sets: list[tuple[Tensor, Tensor]]) -> Data:
    """Stacked, with -1 for what is no example."""
    pad = torch.nn.utils.rnn.pad_sequence
    return Data(*(pad([each[i] for each in sets], batch_first=True, padding_value=-1) for i in range(2)))
