"""Meta-training tasks changed as they are dealt: data augmentation for a whole set of examples, or for each; classes of
one example, whose views a change makes."""

from collections.abc import Callable
from math import pi

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..core import Data, Task
from .pool import ClassPool, Over, Pool

Change = Callable[[Task, Generator | None], Task]


class Varied(Over):
    """A pool whose training tasks go through `change(tasks, generator)`; `val` and `test` are the pool's own, or with
    everywhere=True changed as well: another domain.

    tasks: a batch, with a leading task axis. Random numbers are drawn on the generator's device, as pools do.
    """

    def __init__(self, pool: Pool, change: Change, *, everywhere: bool = False):
        self.pool, self.change, self.everywhere = pool, change, everywhere

    val = property(lambda self: self.over(self.pool.val) if self.everywhere else self.pool.val)
    test = property(lambda self: self.over(self.pool.test) if self.everywhere else self.pool.test)

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        return self.change(self.pool.train.sample(tasks, ways, shots, queries, generator), generator)

    def over(self, pool: Pool) -> "Varied":
        return Varied(pool, self.change, everywhere=self.everywhere)


class Beside(Over):
    """A pool whose training tasks hold, behind their queries, as many examples of another pool's training part, without
    their labels: y = 0 stands there, and means nothing. `val` and `test` are the pool's own. For `objectives.confused`,
    which does not look; another objective would believe it.

    Raises ValueError unless examples are of one shape.
    """

    def __init__(self, pool: Pool, other: Pool):
        if tuple(pool.shape) != tuple(other.shape):
            raise ValueError(f"Beside: {pool.name} deals {tuple(pool.shape)}, {other.name} {tuple(other.shape)}.")
        self.pool, self.other = pool, other

    val = property(lambda self: self.pool.val)
    test = property(lambda self: self.pool.test)

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        S, (x, y) = self.pool.train.sample(tasks, ways, shots, queries, generator)
        more = self.other.train.sample(tasks, ways, shots, queries, generator).query.x
        return Task(S, Data(torch.cat([x, more.to(x)], 1), torch.cat([y, torch.zeros_like(y)], 1)))

    def over(self, pool: Pool) -> "Beside":
        return Beside(pool, self.other)

    def to(self, device) -> "Beside":
        return Beside(self.pool.to(device), self.other.to(device))


class Instances(Over):
    """A pool whose training tasks know no labels: each class is one example, which S and Q hold `shots` and `queries`
    times.

    Examples of a task are drawn evenly from all, none twice. Through `Varied` its copies become views. `val` and `test`
    are the pool's own. Raises ValueError unless the pool has a fixed list of classes; and in `sample`, unless it is a
    `ClassPool`, or for more ways than there are examples.

    >>> from metaloop import tasks
    >>> task = Instances(tasks.glyphs()).sample(ways=4)
    >>> task.support.x.shape, bool((task.support.x[:, 2] == task.query.x[:, 2 * 15]).all())
    (torch.Size([1, 4, 1, 28, 28]), True)
    """

    def __init__(self, pool: Pool):
        if pool.train.classes is None:
            raise ValueError(f"Instances: {pool.name} has no fixed list of classes, whose examples could be dealt.")
        self.pool = pool

    val = property(lambda self: self.pool.val)
    test = property(lambda self: self.pool.test)

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        if not isinstance(pool := self.pool.train, ClassPool):
            raise ValueError(f"{self._call(ways=ways)}: a {type(pool).__name__} has no single examples.")
        if ways > (n := pool.turns * pool.each_turn):
            raise ValueError(f"{self._call(ways=ways)} has {n} examples. Ask for at most {n} ways.")
        where = generator.device if generator is not None else torch.device("cpu")
        index = torch.rand(tasks, n, generator=generator, device=where).topk(ways).indices
        y = torch.arange(ways, device=where).expand(tasks, -1)
        each = lambda k: Data(index.repeat_interleave(k, 1), y.repeat_interleave(k, 1))
        return pool.deal(Task(each(shots), each(queries)))

    def over(self, pool: Pool) -> "Instances":
        return Instances(pool)


def distortions(tasks: Task, generator: Generator | None) -> Task:
    """Square drawings [tasks, n, C, H, H], each under an affine map of its own, with paper (0) beyond the edges:

        (u, v) is drawn as it was at  diag(1/s_x, 1/s_y) [1, k_x; k_y, 1] R(a) (u, v) + (t_x, t_y)

    with the angle a up to 10 degrees, shears k up to 0.3, scales s from 0.8 to 1.2, and shifts t up to 2/105 of the
    side, all uniform; each of the seven counts with probability one half, and is left out otherwise.
    """
    where = generator.device if generator is not None else torch.device("cpu")

    def change(data: Data) -> Data:
        def drawn(least: float, most: float, none: float = 0.0) -> Tensor:
            chance, value = torch.rand(2, data.y.numel(), generator=generator, device=where)
            return torch.where(chance < 0.5, least + (most - least) * value, none)

        angle, k_x, k_y = drawn(-pi / 18, pi / 18), drawn(-0.3, 0.3), drawn(-0.3, 0.3)
        s_x, s_y = drawn(0.8, 1.2, 1.0), drawn(0.8, 1.2, 1.0)
        t_x, t_y = drawn(-4 / 105, 4 / 105), drawn(-4 / 105, 4 / 105)  # the side measures 2
        cos, sin = angle.cos(), angle.sin()
        u = [(cos + k_x * sin) / s_x, (k_x * cos - sin) / s_x, t_x]
        v = [(k_y * cos + sin) / s_y, (cos - k_y * sin) / s_y, t_y]
        maps = torch.stack([*u, *v], 1).view(-1, 2, 3).to(data.x)
        x = data.x.flatten(0, 1)
        grid = F.affine_grid(maps, list(x.shape), align_corners=False)
        return Data(F.grid_sample(x, grid, align_corners=False).view_as(data.x), data.y)

    return Task(change(tasks.support), change(tasks.query))


def inverted(tasks: Task, generator: Generator | None = None) -> Task:
    """Drawings of ink 1 on paper 0 as ink 0 on paper 1."""
    return Task(*(Data(1 - x, y) for x, y in tasks))


def textured(tasks: Task, generator: Generator | None) -> Task:
    """Drawings [tasks, n, C, H, W] on a paper of their own each: |x - t|, t smooth noise in [0, 1/2], drawn evenly
    on a grid of 5 x 5 and linear in between: ink stays the brighter."""
    where = generator.device if generator is not None else torch.device("cpu")

    def change(data: Data) -> Data:
        x, y = data
        t = 0.5 * torch.rand(y.numel(), 1, 5, 5, generator=generator, device=where).to(x)
        t = F.interpolate(t, x.shape[-2:], mode="bilinear", align_corners=True)
        return Data((x - t.view(*y.shape, 1, *x.shape[-2:])).abs(), y)

    return Task(change(tasks.support), change(tasks.query))


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
