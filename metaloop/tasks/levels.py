"""Levels, one after another: the same problem, each time larger."""

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from ..core import Data, Task
from .pool import Over, Pool
from .sequences import associative_recall, copy


class Levels(Over):
    """The tasks of a pool of sequences, level k those of shots[k]. order: of each level, in which order the bits of its
    y stand; as they are unless given."""

    def __init__(self, pool: Pool, shots: Sequence[int], order: Tensor | None = None, name: str = "levels"):
        self.pool, self.shots, self.order, self.title = pool, tuple(shots), order, name

    name = property(lambda self: self.title)
    levels = property(lambda self: len(self.shots))

    def deal(self, k: int, tasks: int, generator: Generator | None = None) -> Task:
        """Tasks of level k."""
        S, Q = self.pool.sample(tasks=tasks, shots=self.shots[k], generator=generator)
        return Task(S, Q if self.order is None else Data(Q.x, Q.y[..., self.order[k].to(Q.y.device)]))

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        """Tasks of the level that has so many shots; ways and queries are ignored."""
        if shots not in self.shots:
            raise ValueError(f"{self._call(shots=shots)} has levels of {', '.join(map(str, self.shots))} shots.")
        return self.deal(self.shots.index(shots), tasks, generator)

    def over(self, pool: Pool) -> "Levels":
        return Levels(pool, self.shots, self.order, self.title)

    def __repr__(self) -> str:
        return f"{self.name}({self.levels} levels, of {', '.join(map(str, self.shots))} shots)"


def copy_levels(*, bits: int = 6, shots: Sequence[int] = (3, 5, 7, 9, 11, 13, 15, 17)) -> Levels:
    """`copy`, longer from level to level: level k is of shots[k] vectors. A network that copies ten copies five:
    what a later level asks for, the earlier ones asked for, too. Raises ValueError unless shots are rising, from 1.

    >>> copy_levels().deal(1, 4).query.y.shape
    torch.Size([4, 5, 6])
    """
    return Levels(copy(bits=bits), _rising("copy_levels", shots), name="copy_levels")


def recall_levels(*, bits: int = 6, length: int = 2, shots: Sequence[int] = (1, 2, 3, 4, 5), seed: int = 0) -> Levels:
    """`associative_recall`, of more items from level to level, each level's answers with their bits in an order of its
    own, drawn by `seed` (the first level's is as it is): so what is learned last is at odds with what was learned
    before, though the number of items tells which level it is. Raises ValueError unless shots are rising, from 1.

    >>> recall_levels().deal(2, 4).query.y.shape
    torch.Size([4, 2, 6])
    """
    shots, g = _rising("recall_levels", shots), torch.Generator().manual_seed(seed)
    order = torch.stack([torch.arange(bits), *(torch.randperm(bits, generator=g) for _ in shots[1:])])
    return Levels(associative_recall(bits=bits, length=length), shots, order, "recall_levels")


def _rising(call: str, shots: Sequence[int]) -> tuple[int, ...]:
    if not shots or list(shots) != sorted({*shots}) or shots[0] < 1:
        raise ValueError(f"{call}(shots={tuple(shots)}): expected whole numbers that rise, from 1 on.")
    return tuple(shots)
