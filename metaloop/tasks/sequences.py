"""Sequences: what was read is to be said again, all of it or what came after a part of it; and classes presented over
and over."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Task
from ..targets import BITS, CLASSES
from .functions import _Drawn
from .pool import Over, Pool


def copy(*, bits: int = 8) -> Pool:
    """Vectors of random bits to be said again in their order.

    `sample` gives a sequence of `shots` vectors and then a mark that it is over, x [tasks, shots + 1, bits + 1], whose
    last channel is the mark's; as many queries, which are blank, and the vectors as their y [tasks, shots, bits].
    It ignores ways and queries; the support set's y are zeros. Raises ValueError unless bits is at least 1.
    Source: Graves, Wayne & Danihelka, Neural Turing Machines, 2014, section 4.1.

    >>> task = copy().sample(tasks=3, shots=20)
    >>> task.support.x.shape, task.query.x.shape, task.query.y.shape
    (torch.Size([3, 21, 9]), torch.Size([3, 20, 9]), torch.Size([3, 20, 8]))
    """
    _check("copy", bits=bits)

    def deal(tasks, ways, shots, queries, rand, randn):
        said = (rand(tasks, shots, bits) < 0.5).float()
        over = torch.eye(bits + 1, device=said.device)[-1].expand(tasks, 1, -1)
        return _asked(torch.cat([F.pad(said, (0, 1)), over], 1), said)

    return _Drawn("copy", BITS, (bits + 1,), deal)


def associative_recall(*, bits: int = 6, length: int = 3) -> Pool:
    """Items, and one of them once more: which came after it? An item is `length` vectors of random bits.

    `sample` gives shots + 1 items, each behind a mark, then any but the last of them between two marks of another kind,
    x [tasks, (shots + 2) * (length + 1) + 1, bits + 2]; `length` queries, which are blank; and the item that came next
    as their y [tasks, length, bits]. So `shots` is what there is to know: how many pairs of neighbours.
    It ignores ways and queries; the support set's y are zeros. Raises ValueError unless both are at least 1.
    Source: Graves, Wayne & Danihelka, Neural Turing Machines, 2014, section 4.3.

    >>> task = associative_recall().sample(tasks=2, shots=5)
    >>> task.support.x.shape, task.query.x.shape, task.query.y.shape
    (torch.Size([2, 29, 8]), torch.Size([2, 3, 8]), torch.Size([2, 3, 6]))
    """
    _check("associative_recall", bits=bits, length=length)

    def deal(tasks, ways, shots, queries, rand, randn):
        items = (rand(tasks, shots + 1, length, bits) < 0.5).float()
        row, which = torch.arange(tasks, device=items.device), (shots * rand(tasks)).long()
        said = F.pad(items, (0, 2))
        item, ask = torch.eye(bits + 2, device=items.device)[-2:, None, None].expand(2, tasks, 1, -1)
        each = torch.cat([item[:, None].expand(-1, shots + 1, -1, -1), said], 2).flatten(1, 2)
        return _asked(torch.cat([each, ask, said[row, which], ask], 1), items[row, which + 1])

    return _Drawn("associative_recall", BITS, (bits + 2,), deal)


class Presentations(Over):
    """The tasks of another pool, whose queries are the support set itself, in its order: for learners that say
    something of each example before they see its label, as `mann(along=True)` does. Any other has seen the answers."""

    def __init__(self, pool: Pool):
        self.pool = pool

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        support = self.pool.sample(tasks, ways, shots, 1, generator).support
        return Task(support, support)

    def over(self, pool: Pool) -> "Presentations":
        return Presentations(pool)


def presentations(pool: Pool) -> Presentations:
    """A pool of classes for a curve over presentations: see `Presentations`. `queries` of its tasks are not asked for.

    Raises ValueError unless the pool deals classes that are numbered for each task.
    """
    if pool.target is not CLASSES or pool.labels != "task":
        raise ValueError(f"presentations: {pool.name} does not deal new classes. Take omniglot(), or a folder.")
    return Presentations(pool)


def _asked(said: Tensor, answer: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Support and query sets: what is said, of which nothing is asked; and blanks, of which the answer is."""
    blank = said.new_zeros(*answer.shape[:2], said.shape[2])
    return (said, said.new_zeros(*said.shape[:2], answer.shape[2])), (blank, answer)


def _check(call: str, **sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{call}({name}={size}): expected at least 1.")
