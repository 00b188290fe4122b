"""Digits at angles: each angle is a distribution of pictures of its own."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Data, Task
from .mnist import mnist
from .pool import Over, Pool, Splits

SPARSE = (-160, -80, 0, 80, 160)
EVERY = tuple(range(-180, 180, 20))


class Rotated(Over):
    """The pictures of a pool of classes, in each task all turned by one of `angles`, in degrees against the clock.

    The y of the support set says which angle, its place among `angles`; that of the query set the class, as the pool
    numbers it. in_turn: task i has angle i, of as many tasks as angles, which are new: their place is told as 0. Else
    angles are drawn evenly.
    """

    labels = "pool"

    def __init__(self, pool: Pool, angles: Sequence[float], *, in_turn: bool = False):
        self.pool, self.angles, self.in_turn = pool, tuple(angles), in_turn

    name = property(lambda self: f"rotated_{self.pool.name}")
    tasks = property(lambda self: len(self.angles) if self.in_turn else None)

    def sample(self, tasks=1, ways=10, shots=1, queries=15, generator=None) -> Task:
        S, Q = self.pool.sample(tasks=tasks, ways=ways, shots=shots, queries=queries, generator=generator)
        if self.in_turn:
            which = torch.arange(tasks) % len(self.angles)
        else:
            where = generator.device if generator is not None else "cpu"
            which = torch.randint(len(self.angles), (tasks,), generator=generator, device=where)
        which = which.to(S.x.device)
        angles = torch.tensor(self.angles, device=S.x.device, dtype=torch.float32)[which]
        told = (0 if self.in_turn else 1) * which[:, None].expand(*S.y.shape)
        return Task(Data(turned(S.x, angles), told), Data(turned(Q.x, angles), Q.y))

    def uses(self, run: str | Path) -> list[str]:
        return []  # f tells no classes

    def over(self, pool: Pool) -> "Rotated":
        return Rotated(pool, self.angles, in_turn=self.in_turn)

    def __repr__(self) -> str:
        return f"{self.name}({len(self.angles)} angles, pictures of shape {self.shape})"


def turned(x: Tensor, degrees: Tensor) -> Tensor:
    """Pictures x [tasks, n, C, H, W] of each task, turned about their middle by its angle; the nearest pixel counts."""
    a = degrees * math.pi / 180
    zero = torch.zeros_like(a)
    matrix = torch.stack([torch.stack([a.cos(), -a.sin(), zero], -1), torch.stack([a.sin(), a.cos(), zero], -1)], 1)
    grid = F.affine_grid(matrix, [len(x), 1, *x.shape[-2:]], align_corners=False)
    flat = x.flatten(1, 2)  # what stands at a place goes to the same one in all of a task's pictures
    return F.grid_sample(flat, grid.to(flat), mode="nearest", align_corners=False).view_as(x)


def rotated_mnist(
    root: str | os.PathLike | None = None, *, angles: Sequence[float] = SPARSE, unseen: Sequence[float] | None = None,
    download: bool = True,
) -> Splits:  # fmt: skip
    """MNIST at angles: `angles` in training (five of eighteen unless given), the others, `unseen`, at test, one task an
    angle, of MNIST's test file; `val` are the angles of training, of other digits.

    Rotations by angles that are a whole turn apart are one, and are refused: who trains on one has seen the other.
    (Sheared pictures, which Choi et al. use too, are not here: shears by angles that are half a turn apart are one, and
    on their grid every unseen angle is one of training.) root, download: see `mnist`.
    Source: Choi, Wu, Goodman & Ermon, Meta-Amortized Variational Inference and Learning, 2020.
    """
    unseen = [a for a in EVERY if a not in {*angles}] if unseen is None else unseen
    every = (*angles, *unseen)
    twice = [a for i, a in enumerate(every) if any((a - b) % 360 == 0 for b in every[:i])]
    if twice or not angles or not unseen:
        told = f"{twice[0]} is there already, a whole turn apart" if twice else "expected some of both"
        raise ValueError(f"rotated_mnist(angles={tuple(angles)}, unseen={tuple(unseen)}): {told}.")
    data = mnist(root, download=download)
    return Splits(Rotated(data.train, angles), Rotated(data.val, angles), Rotated(data.test, unseen, in_turn=True))
