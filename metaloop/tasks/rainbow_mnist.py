"""Rainbow-MNIST: 56 tasks in a row, the ten digits each time in another colour, size and orientation
Finn, Rajeswaran, Kakade, Levine, Online Meta-Learning, ICML 2019, arXiv:1902.08438, section 5.1
"""

import os
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Data, Task
from .mnist import mnist
from .pool import ClassPool, Pool

COLOURS = {  # of the background; digits are white
    "red": (255, 0, 0), "orange": (255, 165, 0), "yellow": (255, 255, 0), "green": (0, 128, 0),
    "blue": (0, 0, 255), "indigo": (75, 0, 130), "violet": (238, 130, 238),
}  # fmt: skip
SCALES = {"full": 1.0, "half": 0.5}
LOOKS = list(product(COLOURS, SCALES, range(4)))


class Rounds(Pool):
    """Tasks that come one after another, each with its examples in the order in which they arrive.

    rounds: how many. points: the examples of each, besides those held out. look(k): what distinguishes round k.
    """

    rounds: int
    points: int

    def deal(self, k: Tensor, index: Tensor) -> Data:
        """The examples index [tasks, n] of rounds k [tasks]: x [tasks, n, *shape], y [tasks, n]."""
        raise NotImplementedError

    def held_out(self, k: int) -> Data:
        """The examples that round k is judged on."""
        raise NotImplementedError

    def look(self, k: int) -> str:
        raise NotImplementedError


class RainbowMNIST(Rounds):
    """The rounds of `rainbow_mnist`. ink: uint8 [rounds, points, size, size]; y int64 [rounds, points]; the same of the
    held-out digits; paper: the colours, float [rounds, 3]."""

    name, classes = "rainbow_mnist", 10

    def __init__(self, ink: Tensor, y: Tensor, held_ink: Tensor, held_y: Tensor, paper: Tensor):
        self.ink, self.y, self.held_ink, self.held_y, self.paper = ink, y, held_ink, held_y, paper
        self.rounds, self.points = y.shape
        self.shape, self.names, self.device = (3, *ink.shape[2:]), list("0123456789"), ink.device

    def deal(self, k: Tensor, index: Tensor) -> Data:
        return self._deal(self.ink, self.y, k, index)

    def held_out(self, k: int) -> Data:
        there = torch.tensor([k]), torch.arange(self.held_y.shape[1])[None]
        return Data(*(part[0] for part in self._deal(self.held_ink, self.held_y, *there)))

    def look(self, k: int) -> str:
        colour, scale, turn = LOOKS[k]
        return f"{colour}, {scale} size, {90 * turn} degrees"

    def sample(self, tasks=1, ways=10, shots=1, queries=15, generator=None) -> Task:
        """Few-shot tasks of rounds drawn at random: support from a round's data, queries from its held-out digits.
        Labels are the digits themselves, so ways must be 10."""
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        if ways != 10:
            raise ValueError(f"rainbow_mnist.sample(ways={ways}): its tasks are about ten digits. Take ways=10.")
        where = generator.device if generator is not None else torch.device("cpu")
        k = torch.randint(self.rounds, (tasks,), generator=generator, device=where)
        parts = []
        for ink, y, n in ((self.ink, self.y, shots), (self.held_ink, self.held_y, queries)):
            labels = y.to(where)[k]
            lot = torch.rand(labels.shape, generator=generator, device=where)
            of_digit = labels[:, None] == torch.arange(10, device=where)[:, None]
            fewest = int(of_digit.sum(-1).min())
            if n > fewest:
                raise ValueError(f"{self._call(shots=shots, queries=queries)} has rounds with {fewest} of a digit.")
            index = torch.where(of_digit, lot[:, None], -1.0).topk(n).indices.flatten(1)
            index = index.gather(1, torch.rand(index.shape, generator=generator, device=where).argsort(1))
            parts.append(self._deal(ink, y, k, index))
        return Task(*parts)

    def to(self, device) -> "RainbowMNIST":
        parts = (self.ink, self.y, self.held_ink, self.held_y, self.paper)
        return RainbowMNIST(*(part.to(device) for part in parts))

    def _deal(self, ink: Tensor, y: Tensor, k: Tensor, index: Tensor) -> Data:
        """White digits on the papers of their rounds."""
        k, index = k.to(self.device), index.to(self.device)
        cover, paper = ink[k[:, None], index][:, :, None].float() / 255, self.paper[k][:, None, :, None, None]
        return Data(paper + cover * (1 - paper), y[k[:, None], index])

    def __repr__(self) -> str:
        return f"rainbow_mnist({self.rounds} rounds of {self.points} digits of shape {self.shape})"


def rainbow_mnist(
    root: str | os.PathLike | None = None,
    *,
    size: int = 28,
    points: int = 900,
    held_out: int = 500,
    download: bool = True,
) -> RainbowMNIST:
    """Rainbow-MNIST: 7 background colours x 2 scales x 4 rotations = 56 tasks of `points` digits each.

    Each task has training digits of its own, drawn once for all, and `held_out` digits of MNIST's test file to be
    judged on. Images are [3, size, size]: white digits, half-size ones in the middle.
    root, download: see `mnist`. Raises ValueError if MNIST cannot be read, or has too few digits.
    """
    data = mnist(root, download=download)
    if min(size, points, held_out) < 1 or points * len(LOOKS) > 55_000 or held_out > 10_000:
        raise ValueError(
            f"rainbow_mnist({size=}, {points=}, {held_out=}): expected at least 1, and MNIST has 55000 digits for 56 "
            f"tasks, and 10000 to hold out."
        )
    g = torch.Generator().manual_seed(0)
    x, y = _all(data.train)
    mine = torch.randperm(len(y), generator=g)[: points * len(LOOKS)].view(len(LOOKS), points)
    held_x, held_y = _all(data.test)
    theirs = torch.stack([torch.randperm(len(held_y), generator=g)[:held_out] for _ in LOOKS])
    ink, held = (
        torch.stack([_turn(x[i], size, SCALES[scale], turn) for i, (_, scale, turn) in zip(which, LOOKS, strict=True)])
        for x, which in ((x, mine), (held_x, theirs))
    )
    paper = torch.tensor([COLOURS[colour] for colour, _, _ in LOOKS]) / 255
    return RainbowMNIST(ink, y[mine], held, held_y[theirs], paper)


def _all(pool: Pool) -> tuple[Tensor, Tensor]:
    """Every digit of a part of MNIST: ink uint8 [n, 28, 28], y [n]."""
    assert isinstance(pool, ClassPool)
    return pool.images[:, 0], torch.arange(10).repeat_interleave(pool.counts)


def _turn(ink: Tensor, size: int, scale: float, turns: int) -> Tensor:
    """Digits [n, 28, 28] at scale in the middle of [n, size, size], turned by quarters."""
    side = round(size * scale)
    small = F.interpolate(ink[:, None].float(), (side, side), mode="bilinear", antialias=True)[:, 0]
    before = (size - side) // 2
    framed = F.pad(small, (before, size - side - before, before, size - side - before))
    return torch.rot90(framed.round().clamp(0, 255).byte(), turns, (-2, -1))
