"""Sprites: small pictures of which every combination of five factors is there. Nothing to download."""

from itertools import product

import torch
from torch import Generator, Tensor

from ..core import Data, Task
from .pool import Pool

FACTORS = {"shape": 3, "size": 3, "across": 8, "down": 8, "shade": 2}  # square, disc, triangle; pixels; grey, white
SIDE, FINE = 16, 4  # pixels; points a pixel and axis whose mean it is


class Sprites(Pool):
    """A square, disc or triangle in one of 3 sizes, at one of 8 x 8 places, in grey or white on black: 1152 pictures.

    images: uint8 [1152, 1, 16, 16]. values: int64 [1152, 5], the value of each factor of each picture, in the order of
    `factors`, which names them and says how many values each has.

    A task is about one factor, drawn evenly of those with `ways` values at least, or `factor`: its classes are values
    of it, everything else is drawn evenly, and no picture is there twice. `sample` gives x float32 in [0, 1].
    """

    name = "sprites"

    def __init__(self, factor: str | None = None):
        if factor is not None and factor not in FACTORS:
            raise ValueError(f"sprites: factor is {factor!r}, expected one of {', '.join(FACTORS)}.")
        self.factor, self.factors, self.device = factor, dict(FACTORS), torch.device("cpu")
        self.values = torch.tensor([*product(*map(range, FACTORS.values()))])
        self.images = _drawn(self.values)
        self.shape = tuple(self.images.shape[1:])

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator: Generator | None = None) -> Task:
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        where = generator.device if generator is not None else torch.device("cpu")
        sizes = torch.tensor([*self.factors.values()])
        of = [f for f, n in enumerate(self.factors.items()) if ways <= n[1] and self.factor in (None, n[0])]
        asked = f"factor {self.factor!r}" if self.factor else "any factor"
        if not of:
            most = self.factors[self.factor] if self.factor else max(self.factors.values())
            raise ValueError(f"{self._call(ways=ways)} has {most} values of {asked}. Ask for at most {most} ways.")
        most = len(self.values) // max(self.factors[list(self.factors)[f]] for f in of)
        if shots + queries > most:
            raise ValueError(f"{self._call(ways=ways, shots=shots, queries=queries)} has {most} pictures of a value of "
                             f"{asked}. Ask for at most {most} of shots and queries together.")  # fmt: skip
        rand = lambda *size: torch.rand(size, generator=generator, device=where).cpu()
        f = torch.tensor(of)[(rand(tasks) * len(of)).long()]
        lot = rand(tasks, max(self.factors.values()))
        classes = lot.masked_fill(torch.arange(lot.shape[1]) >= sizes[f][:, None], -1.0).topk(ways).indices
        has = self.values.T[f][:, None] == classes[..., None]  # [tasks, ways, pictures]
        index = rand(tasks, ways, len(self.values)).masked_fill(~has, -1.0).topk(shots + queries).indices
        order, y = rand(tasks, ways * shots).argsort(1), torch.arange(ways)
        support = Data(index[..., :shots].flatten(1).gather(1, order), order // shots)
        query = Data(index[..., shots:].flatten(1), y.repeat_interleave(queries).repeat(tasks, 1))
        deal = lambda d: Data(self.images[d.x.to(self.device)].float() / 255, d.y.to(self.device))
        return Task(deal(support), deal(query))

    def to(self, device) -> "Sprites":
        there = Sprites(self.factor)
        there.device, there.images = torch.device(device), self.images.to(device)
        return there

    def __repr__(self) -> str:
        return f"sprites({len(self.values)} pictures, every combination of {', '.join(self.factors)})"


def sprites(factor: str | None = None) -> Sprites:
    """Pictures of every combination of five factors; a task is about one of them, or always about `factor`. Raises
    ValueError unless that is shape, size, across, down or shade.

    >>> sprites().sample(tasks=4, ways=2, shots=5).support.x.shape
    torch.Size([4, 10, 1, 16, 16])
    """
    return Sprites(factor)


def _drawn(values: Tensor) -> Tensor:
    """uint8 [n, 1, SIDE, SIDE]: each pixel the share of its points that are inside, times the shade."""
    shape, size, across, down, shade = values.T[..., None, None]
    at = (torch.arange(SIDE * FINE) + 0.5) / FINE
    u, v = at[None, None] - (across + 4.5), at[None, :, None] - (down + 4.5)  # from the middle, 4.5 .. 11.5 pixels
    r = 1.5 + size  # 1.5, 2.5 or 3.5 pixels: inside the picture everywhere
    square = (u.abs() <= r) & (v.abs() <= r)
    disc = u.square() + v.square() <= r**2
    triangle = (v <= r) & (2 * u.abs() <= v + r)  # the tip above
    inside = torch.where(shape == 0, square, torch.where(shape == 1, disc, triangle)).float()
    share = torch.nn.functional.avg_pool2d(inside[:, None], FINE)
    return (255 * share * (0.5 + 0.5 * shade[:, None])).round().to(torch.uint8)
