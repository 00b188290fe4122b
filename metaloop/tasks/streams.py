"""Streams: tasks whose support set comes one class, or one function, after another, so that order counts."""

import math
import os

import torch

from ..core import Task
from ..targets import NUMBERS
from .functions import _Drawn
from .omniglot import omniglot
from .pool import ClassPool, Over, Pool, Splits


def sine_stream(*, slots: int = 10) -> Pool:
    """Sine waves one after another: y = A sin(x + b), with A in [0.1, 5], b in [0, pi], x in [-5, 5], all uniform.

    `sample` gives `ways` waves in turn, shots points of each for the support set (the stream) and queries of each for
    the query set. Inputs are x and the wave's number as a one-hot code, [tasks, n, 1 + slots]; y is [tasks, n, 1].
    Raises ValueError for more ways than slots.
    Source: Javed & White, Meta-Learning Representations for Continual Learning, 2019, section 4.1.

    >>> sine_stream().sample(tasks=3, ways=10, shots=40, queries=32).support.x.shape
    torch.Size([3, 400, 11])
    """

    def deal(tasks, ways, shots, queries, rand, randn):
        if ways > slots:
            raise ValueError(f"sine_stream.sample({ways=}): there are {slots} slots. Take sine_stream(slots={ways}).")
        A, b = 0.1 + 4.9 * rand(tasks, ways, 1), math.pi * rand(tasks, ways, 1)
        for n in (shots, queries):
            x = 10 * rand(tasks, ways, n) - 5
            code = torch.eye(slots, device=x.device)[:ways, None].expand(tasks, ways, n, slots)
            yield torch.cat([x[..., None], code], -1).flatten(1, 2), (A * torch.sin(x + b)).flatten(1, 2)[..., None]

    return _Drawn("sine_stream", NUMBERS, (1 + slots,), deal)


class ClassStream(Over):
    """Classes one after another: the support set is `ways` classes of a ClassPool in turn, shots examples of each.

    remember: examples of all classes that are added to the queries, or None. With a number, labels are those of the
        pool's list of classes (meta-training: what is learned must not overwrite the rest); without, classes are
        numbered in the order in which they come, and queries are those of the stream.
    again: the queries are the stream's own examples: has it been forgotten?
    """

    pool: ClassPool
    name = property(lambda self: f"{self.pool.name}_stream")
    labels = property(lambda self: "task" if self.remember is None else "pool")

    def __init__(self, pool: ClassPool, remember: int | None = None, again: bool = False):
        self.pool, self.remember, self.again = pool, remember, again

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        index, _ = self.pool._draw(tasks, ways, shots, queries, generator)
        support, query = index[..., :shots].flatten(1), index[..., shots:].flatten(1)
        if self.again:
            query = support
        if self.remember is None:
            known = torch.arange(ways, device=index.device)
            y = [known.repeat_interleave(part.shape[1] // ways).repeat(tasks, 1) for part in (support, query)]
        else:
            labels = self.pool._labels(index.device)
            rest = torch.randint(len(labels), (tasks, self.remember), generator=generator, device=index.device)
            query = torch.cat([query, rest], 1)
            y = [labels[part % len(labels)] for part in (support, query)]
        return Task(self.pool._data(support, y[0]), self.pool._data(query, y[1]))

    def over(self, pool: ClassPool) -> "ClassStream":
        return ClassStream(pool, self.remember, self.again)

    def __repr__(self) -> str:
        return f"{self.name}({self.split or 'all'}: {self.classes} classes of shape {self.shape})"


def class_stream(pool: Pool, *, remember: int = 64, again: bool = False) -> Splits:
    """A pool of classes as streams: see `ClassStream`. For training, labels run over all its classes and `remember`
    examples of all of them join the queries; val and test deal streams of new classes, numbered as they come.

    Raises ValueError unless the pool stores the examples of a list of classes.
    """
    parts = [part for part in (pool.train, pool.val, pool.test) if isinstance(part, ClassPool)]
    if len(parts) < 3:
        raise ValueError(f"class_stream: {pool.name} has no fixed list of classes. Take omniglot(), or a folder.")
    train, val, test = parts
    return Splits(ClassStream(train, remember), ClassStream(val, again=again), ClassStream(test, again=again))


def omniglot_stream(
    root: str | os.PathLike | None = None, *, remember: int = 64, again: bool = False, size: int = 28
) -> Splits:
    """Split-Omniglot: streams of characters, 964 background ones for training and 659 of other alphabets for test.

    `again`, `remember`: see `ClassStream`. Validation streams are of training characters, numbered anew.
    Source: Javed & White, Meta-Learning Representations for Continual Learning, 2019, section 4.1.
    """
    pool = omniglot(root, split="background", rotations=None, validation=False, size=size)
    return class_stream(pool, remember=remember, again=again)
