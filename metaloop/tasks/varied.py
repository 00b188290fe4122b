"""Meta-training tasks changed as they are dealt: data augmentation for a whole set of examples, or for each."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core import Data, Task
from .pool import Over, Pool

Change = Callable[[Task, Generator | None], Task]


class Varied(Over):
    """A pool whose training tasks go through `change(tasks, generator)`; `val` and `test` are the pool's own.

    tasks: a batch, with a leading task axis. Random numbers are drawn on the generator's device, as pools do.
    """

    def __init__(self, pool: Pool, change: Change):
        self.pool, self.change = pool, change

    val = property(lambda self: self.pool.val)
    test = property(lambda self: self.pool.test)

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        return self.change(self.pool.train.sample(tasks, ways, shots, queries, generator), generator)

    def over(self, pool: Pool) -> "Varied":
        return Varied(pool, self.change)


def strokes(tasks: Task, generator: Generator | None) -> Task:
    """Drawings [tasks, n, C, H, W] as if by other pens, and of mirrored characters.

    Each drawing's ink is spread as it is, over 2x2 pixels, over a cross of five, or over 3x3, with equal chances. Each
    class of a task is mirrored along its diagonal, or not, as a whole; with rotations as classes too, that makes all
    eight symmetries of a square.
    """
    where = generator.device if generator is not None else torch.device("cpu")
    ways = int(max(part.y.max() for part in tasks)) + 1
    mirrored = torch.rand(len(tasks.support.y), ways, generator=generator, device=where) < 0.5

    def change(data: Data) -> Data:
        x, y = data
        turn = mirrored.to(y.device).gather(1, y)[..., None, None, None]
        pens = torch.stack(_spread(torch.where(turn, x.mT, x)))
        pen = torch.randint(len(pens), y.shape, generator=generator, device=where).to(y.device)
        return Data(pens.take_along_dim(pen[None, ..., None, None, None], 0)[0], y)

    return Task(change(tasks.support), change(tasks.query))


def _spread(x: Tensor) -> list[Tensor]:
    """The drawings under each pen."""
    flat = x.flatten(0, 1)
    square = F.max_pool2d(F.pad(flat, (0, 1, 0, 1)), 2, 1)
    across, down = F.max_pool2d(flat, (1, 3), 1, (0, 1)), F.max_pool2d(flat, (3, 1), 1, (1, 0))
    return [t.view_as(x) for t in (flat, square, torch.maximum(across, down), F.max_pool2d(flat, 3, 1, 1))]
