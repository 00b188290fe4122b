"""Where tasks come from: a pool holds the examples, `sample` deals a batch of tasks from them.

A task of a classification pool draws `ways` distinct classes, numbers them 0 .. ways-1 in random order, and
draws shots + queries distinct examples of each. The whole batch is drawn by indexing, without a loop over tasks.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from numbers import Integral
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Generator, Tensor

from ..core import Data, Task
from ..targets import CLASSES, Target, of_kind
from ..torch_private import pytree

AT_ONCE = 256  # examples that are read from the disk together


class Pool:
    """What every pool answers. One without splits is its own train, val and test.

    name: the data's name. split: "train", "val", "test", or "" where there is only one.
    target: what y is (`metaloop.targets`): classes, y int64 [tasks, n], unless said; or numbers, y float32
        [tasks, n, ...]; or log-densities. kind: its kind, "classification" or "regression".
    labels: what classes are numbered over: "task", 0 .. ways-1 in each; or "pool", 0 .. classes-1 throughout.
    tasks: how many there are, where they are fixed; None where they are drawn.
    shape: of one example. classes, names: how many and what they are called, None where there is no end of them.
    skipped: files that were left out, and why.
    """

    name: str
    split: str = ""
    target: Target = CLASSES
    labels: str = "task"
    tasks: int | None = None
    shape: tuple[int, ...]
    classes: int | None = None
    names: list[str] | None = None
    device: torch.device
    skipped: Sequence[tuple[Path, str]] = ()

    @property
    def kind(self) -> str:
        return self.target.kind

    @property
    def pictures(self) -> bool:
        """Whether its examples are images, [C, H, W]."""
        return len(self.shape) == 3

    @property
    def train(self) -> "Pool":
        return self

    @property
    def val(self) -> "Pool":
        return self

    @property
    def test(self) -> "Pool":
        return self

    def sample(
        self,
        tasks: int = 1,
        ways: int = 5,
        shots: int = 1,
        queries: int = 15,
        generator: Generator | None = None,
    ) -> Task:
        """A batch of tasks: x [tasks, n, *shape] on the pool's device, n = ways * shots and ways * queries.

        shots, queries: examples per class; of a range such as (1, 5), both ends in it, every class of every task has a
        number of its own, drawn evenly, where the pool can (`ClassPool`): tasks are then filled up to the most by what
        is no example, x = 0 and y = -1, behind all others. The engine takes them as they are, without these
        (`engine.batch.groups`). Support examples come in random order. Random numbers are drawn on
        the generator's device (torch's global CPU generator unless given): one seed, the same tasks everywhere.
        """
        raise NotImplementedError

    def flat(self, batch: int = 64) -> "Pool":
        """The pool without episodes, for ordinary training over all classes: see `FlatPool`."""
        raise ValueError(f"{self.name}.flat(): only a pool with a fixed list of classes can be flat.")

    def any_shots(self) -> "Pool":
        """The pool with any number of shots in training, from 1 to those asked for: see `AnyShots`."""
        return Splits(AnyShots(self.train), self.val, self.test)

    def to(self, device: torch.device | str) -> "Pool":
        """The same pool on another device."""
        raise NotImplementedError

    def outline(self) -> dict[str, Any]:
        """What run.json keeps of it; `Outline(**...)` is a pool of that."""
        return {"shape": tuple(self.shape), "classes": self.train.classes, "kind": self.kind, "name": self.name}

    def digests(self) -> list[str] | None:
        """A short name for each class's examples, in whatever order they lie: equal for the same ones. None where there
        is no fixed list of classes."""
        return None

    def uses(self, run: str | Path) -> list[str]:
        """Commands by which a run that was trained on it serves on one's own data."""
        return self.target.uses(run)

    def _call(self, **arguments: int) -> str:
        """The call as it is quoted in errors: `omniglot.sample(ways=5000): the train split`."""
        quoted = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
        return f"{self.name}.sample({quoted}): the {self.split + ' split' if self.split else 'pool'}"

    def _check_positive(self, **arguments: Any) -> None:
        for key, value in arguments.items():
            if not isinstance(value, Integral) or value < 1:
                raise ValueError(f"{self.name}.sample({key}={value!r}): expected a whole number, at least 1.")


class Outline(Pool):
    """A pool without its examples, of what `outline` says of one: enough to rebuild the networks of a run."""

    kind: str = CLASSES.kind

    def __init__(self, shape: tuple[int, ...], classes: int | None, kind: str = CLASSES.kind, name: str = ""):
        self.shape, self.classes, self.kind, self.name = tuple(shape), classes, kind, name

    target: Any = property(lambda self: of_kind(self.kind))

    @classmethod
    def of(cls, pool: Pool) -> "Outline":
        return cls(**pool.outline())

    def flat(self, batch: int = 64) -> "Outline":
        return self

    def any_shots(self) -> "Outline":
        return self


def _said(name: str) -> Any:
    """What the pool below says."""
    return property(lambda self: getattr(self.pool, name))


class Over(Pool):
    """A pool over another one, `pool`: what it does not say itself, that one says.

    over(pool): the same change of another pool, by which it has splits where the other has, and goes to a device.
    """

    pool: Pool
    name, split, target, labels, tasks = map(_said, ("name", "split", "target", "labels", "tasks"))
    shape, classes, names, device, skipped = map(_said, ("shape", "classes", "names", "device", "skipped"))

    train = property(lambda self: self.over(self.pool.train))
    val = property(lambda self: self.over(self.pool.val))
    test = property(lambda self: self.over(self.pool.test))

    def over(self, pool: Any) -> Self:
        raise NotImplementedError

    def digests(self) -> list[str] | None:
        return self.pool.digests()

    def uses(self, run: str | Path) -> list[str]:
        return self.pool.uses(run)

    def to(self, device) -> Self:
        return self.over(self.pool.to(device))


class Splits(Over):
    """Three pools with disjoint classes under one name. Asked for tasks itself, it deals from `train`."""

    split, skipped = "", ()

    def __init__(self, train: Pool, val: Pool, test: Pool):
        self.parts, self.pool = (train, val, test), train

    train = property(lambda self: self.parts[0])
    val = property(lambda self: self.parts[1])
    test = property(lambda self: self.parts[2])

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        return self.train.sample(tasks, ways, shots, queries, generator)

    def flat(self, batch: int = 64) -> "Splits":
        """Flat for training only: `val` and `test` still deal few-shot tasks."""
        return Splits(self.train.flat(batch), self.val, self.test)

    def to(self, device) -> "Splits":
        return Splits(*(part.to(device) for part in self.parts))

    def __repr__(self) -> str:
        counts = ", ".join(f"{p.split} {p.classes}" for p in self.parts)
        return f"{self.name}({counts} classes of shape {self.shape})"


class ClassPool(Pool):
    """Examples of many classes on one device: pictures, kept as bytes, or arrays of any shape.

    images: [turns * N, ...], sorted by class: uint8, dealt as float32 in [0, 1], or floats, dealt as they are. counts:
    examples of each class, N in all. names: of the classes. With turns = 4 the images are followed by their copies
    rotated by 90, 180 and 270 degrees, and each class of each task is shown under one rotation drawn for it.
    rows: int64 [N], where the examples lie among `images`, which then need no order and may hold others too; without
    turns. release: called when examples have been copied out of `images`, which may lie on disk (`files.Mapped`).
    Tasks have x float32 [tasks, n, ...]. `sample` leaves classes with fewer than shots + queries
    examples out of the draw, and raises ValueError if fewer than `ways` remain.
    """

    names: list[str]

    def __init__(
        self, images: Tensor, counts: Tensor, names: list[str], *, name: str, split: str = "", turns: int = 1,
        rows: Tensor | None = None, release: Callable[[], Any] | None = None,
    ):  # fmt: skip
        assert images.dtype == torch.uint8 or images.is_floating_point()
        assert len(counts) == len(names)
        assert (len(images) if rows is None else len(rows)) == turns * int(counts.sum())
        assert rows is None or turns == 1
        self.images, self.counts, self.names, self.turns = images, counts.cpu().long(), names, turns
        self.rows, self.release = None if rows is None else rows.cpu(), release
        self.name, self.split = name, split
        self.shape, self.classes, self.device = tuple(images.shape[1:]), len(names), images.device
        self.first = self.counts.cumsum(0) - self.counts
        self.most, self.each_turn = max(counts.tolist(), default=0), int(counts.sum())
        self._tables: dict[Any, Tensor] = {}

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        return self.deal(self.draw(tasks, ways, shots, queries, generator))

    def draw(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        """The tasks that `sample` deals, each example told by its place: x int64 [tasks, n]. Example i of class k lies
        at first[k] + i, and each_turn further on with each quarter turn."""
        (least, shots), (fewest, queries) = self._range("shots", shots), self._range("queries", queries)
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        index, order = self._draw(tasks, ways, shots, queries, generator)
        support, query = index[..., :shots].flatten(1).gather(1, order), index[..., shots:].flatten(1)
        y = torch.arange(ways, device=order.device).repeat_interleave(queries).repeat(tasks, 1)
        task = Task(Data(support, order // shots), Data(query, y))
        if (least, fewest) == (shots, queries):
            return task

        def thinned(data: Data, place: Tensor, low: int, high: int) -> Data:
            """place: of each example among those of its class."""
            drawn = torch.randint(low, high + 1, (tasks, ways), generator=generator, device=order.device)
            out = place >= drawn.gather(1, data.y)
            last = out.long().argsort(dim=1, stable=True)
            return Data(*(t.masked_fill(out, -1).gather(1, last) for t in data))

        of_query = torch.arange(queries, device=order.device).repeat(ways).expand(tasks, -1)
        return Task(thinned(task.support, order % shots, least, shots), thinned(task.query, of_query, fewest, queries))

    def _range(self, name: str, n: Any) -> tuple[Any, Any]:
        """The least and the most of a number of examples. Raises ValueError if that is no range."""
        if not isinstance(n, tuple | list):
            return n, n
        if len(n) != 2 or not all(isinstance(k, Integral) for k in n) or not 1 <= n[0] <= n[1]:
            raise ValueError(f"{self.name}.sample({name}={n!r}): expected a whole number, or two, the smaller first.")
        return int(n[0]), int(n[1])

    def deal(self, drawn: Task) -> Task:
        """The examples themselves of tasks as `draw` tells them, on the pool's device."""
        return Task(*(self._data(*part) for part in drawn))

    def fixed(self, drawn: Task, **episode: Any) -> "Episodes":
        """The pool of these tasks alone, as `draw` tells them; episode: ways, shots and queries, as they were drawn."""
        return Episodes(self, drawn, **episode)

    def flat(self, batch: int = 64) -> "FlatPool":
        return FlatPool(self, batch)

    def digests(self) -> list[str]:
        """Of the first turn. Pictures of floats in [0, 1] have those of their bytes."""
        found = []
        for first, count in zip(self.first.tolist(), self.counts.tolist(), strict=True):
            places = range(first, first + count) if self.rows is None else self.rows[first : first + count].tolist()
            images = (self.images[i].contiguous().cpu().numpy() for i in places)
            each = (blake2b(_bytes(image).data, digest_size=8).digest() for image in images)
            together = sum(int.from_bytes(digest, "little") for digest in each) % 2**48
            found.append(f"{together:012x}")
            self._release()
        return found

    def to(self, device) -> "ClassPool":
        images = self.images.to(device)
        release = self.release if images is self.images else None
        return ClassPool(
            images, self.counts, self.names, name=self.name, split=self.split, turns=self.turns, rows=self.rows,
            release=release,
        )  # fmt: skip

    def _draw(self, tasks, ways, shots, queries, generator) -> tuple[Tensor, Tensor]:
        """Which images each class of each task has, [tasks, ways, shots + queries]; the support sets' orders."""
        where = generator.device if generator is not None else torch.device("cpu")

        def rand(*size: int) -> Tensor:
            return torch.rand(size, generator=generator, device=where)

        eligible = self._table(where, (ways, shots, queries), lambda: self._eligible(ways, shots, queries))
        k = eligible[rand(tasks, len(eligible)).topk(ways).indices]
        counts = self._table(where, "counts", lambda: self.counts)[k]
        first = self._table(where, "first", lambda: self.first)[k]
        lot = rand(tasks, ways, self.most)
        lot.masked_fill_(torch.arange(lot.shape[-1], device=where) >= counts[..., None], -1.0)
        index = first[..., None] + lot.topk(shots + queries).indices
        if self.turns > 1:
            turn = torch.randint(self.turns, (tasks, ways, 1), generator=generator, device=where)
            index = index + turn * self.each_turn
        return index, rand(tasks, ways * shots).argsort(1)

    def _table(self, where: torch.device, key: Any, make: Callable[[], Tensor]) -> Tensor:
        """A small tensor on a device, brought there once: later draws wait for nothing."""
        if (where, key) not in self._tables:
            self._tables[where, key] = make().to(where)
        return self._tables[where, key]

    def _labels(self, where: torch.device) -> Tensor:
        """The class of each image of the first turn."""
        return self._table(where, "labels", lambda: torch.arange(len(self.counts)).repeat_interleave(self.counts))

    def _eligible(self, ways: int, shots: int, queries: int) -> Tensor:
        """The classes with enough examples [<= classes]."""
        n = len(self.counts)
        if ways > n:
            raise ValueError(f"{self._call(ways=ways)} has {n} classes. Ask for at most {n} ways.")
        eligible = (self.counts >= shots + queries).nonzero()[:, 0]
        if len(eligible) < ways:
            most = int(self.counts.sort(descending=True).values[ways - 1])
            raise ValueError(
                f"{self._call(ways=ways, shots=shots, queries=queries)} has {len(eligible)} classes with shots "
                f"+ queries = {shots + queries} examples. Ask for at most {most} of both together for {ways} ways."
            )
        return eligible

    def _data(self, index: Tensor, y: Tensor) -> Data:
        index, y = index.to(self.device), y.to(self.device)
        none, index = y < 0, index.clamp_min(0)
        if self.rows is not None:
            index = self._table(self.device, "rows", lambda: self.rows)[index]  # type: ignore[arg-type,return-value]
        if self.release is None:
            x = self.images.index_select(0, index.flatten()).float()
        else:
            x = torch.empty(index.numel(), *self.shape)
            for ours, where in zip(x.split(AT_ONCE), index.flatten().split(AT_ONCE), strict=True):
                ours.copy_(self.images.index_select(0, where))
                self._release()
        x = (x.div_(255) if self.images.dtype == torch.uint8 else x).view(*index.shape, *self.shape)
        return Data(x.masked_fill_(none.view(*none.shape, *[1] * len(self.shape)), 0), y)

    def _release(self) -> None:
        if self.release is not None:
            self.release()

    def __repr__(self) -> str:
        return f"{self.name}({self.split or 'all'}: {self.classes} classes of shape {self.shape})"


def _bytes(image: np.ndarray) -> np.ndarray:
    """A picture as bytes, if that is what its numbers mean."""
    if image.ndim == 3 and image.dtype.kind == "f" and image.size and image.min() >= 0 and image.max() <= 1:
        return (255 * image).round().astype(np.uint8)
    return image


class FlatPool(Over):
    """Ordinary supervised batches from a ClassPool: examples drawn evenly from all, labelled 0 .. classes-1.

    `sample` gives support and query sets of `batch` examples each, and ignores ways, shots and queries.
    """

    pool: ClassPool
    labels = "pool"

    def __init__(self, pool: ClassPool, batch: int = 64):
        if batch < 1:
            raise ValueError(f"{pool.name}.flat(batch={batch}): expected at least 1.")
        self.pool, self.batch = pool, batch

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks)
        where = generator.device if generator is not None else torch.device("cpu")
        size = (tasks, 2 * self.batch)
        index = torch.randint(self.pool.turns * self.pool.each_turn, size, generator=generator, device=where)
        labels = self.pool._labels(where)
        y = labels[index % len(labels)]
        return Task(*(self.pool._data(*half) for half in zip(index.chunk(2, 1), y.chunk(2, 1), strict=True)))

    def over(self, pool: ClassPool) -> "FlatPool":
        return FlatPool(pool, self.batch)


class FixedPool(Pool):
    """Tasks that somebody has fixed: a benchmark's own. `sample` deals them in order, and again from the first.

    all: a Task with a leading task axis, of ways * shots support examples and ways * queries queries each.
    """

    def __init__(self, all: Task, *, ways: int, shots: int, queries: int, name: str):
        self.all, self.episode, self.name = all, {"ways": ways, "shots": shots, "queries": queries}, name
        x = all.support.x
        self.tasks, self.shape, self.device = len(x), tuple(x.shape[2:]), x.device

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks)
        asked = {"ways": ways, "shots": shots, "queries": queries}
        if asked != self.episode:
            fixed = ", ".join(f"{k}={v}" for k, v in self.episode.items())
            raise ValueError(f"{self._call(**asked)} has {self.tasks} fixed tasks. Ask for {fixed}.")
        index = torch.arange(tasks, device=self.device) % len(self.all.support.x)
        return pytree.tree_map(lambda t: t[index], self.all)

    def to(self, device) -> "FixedPool":
        return FixedPool(pytree.tree_map(lambda t: t.to(device), self.all), **self.episode, name=self.name)

    def __repr__(self) -> str:
        return f"{self.name}({self.tasks} fixed tasks, examples of shape {self.shape})"


class Episodes(Over):
    """Tasks of a ClassPool that somebody has fixed, told by their examples' places. `sample` deals them in order."""

    pool: ClassPool
    tasks: int | None = None

    def __init__(self, pool: ClassPool, drawn: Task, **episode: Any):
        self.pool, self.drawn, self.episode = pool, drawn, episode
        self.tasks = len(drawn.support.x)

    train = val = test = property(lambda self: self)

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks)
        told = lambda n: tuple(n) if isinstance(n, tuple | list) else n
        asked = {"ways": ways, "shots": told(shots), "queries": told(queries)}
        if asked != self.episode:
            fixed = ", ".join(f"{k}={v}" for k, v in self.episode.items())
            raise ValueError(f"{self._call(**asked)} has {self.tasks} fixed tasks. Ask for {fixed}.")
        return self._at(torch.arange(tasks) % len(self.drawn.support.x))

    def at(self, start: int, stop: int) -> Task:
        """Tasks start .. stop - 1."""
        return self._at(torch.arange(start, min(stop, len(self.drawn.support.x))))

    def _at(self, index: Tensor) -> Task:
        return self.pool.deal(pytree.tree_map(lambda t: t[index.to(t.device)], self.drawn))

    def over(self, pool: ClassPool) -> "Episodes":
        return Episodes(pool, self.drawn, **self.episode)


class AnyShots(Over):
    """The tasks of another pool, their number of shots drawn evenly from 1 .. shots, one for a whole batch."""

    def __init__(self, pool: Pool):
        self.pool = pool

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(shots=shots)
        where = generator.device if generator is not None else torch.device("cpu")
        drawn = int(torch.randint(1, shots + 1, (), generator=generator, device=where))
        return self.pool.sample(tasks, ways, drawn, queries, generator)

    def over(self, pool: Pool) -> "AnyShots":
        return AnyShots(pool)
