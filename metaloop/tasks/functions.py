"""Tasks made of random functions: waves, Boolean and smooth functions to regress, clouds of points to classify."""

import math

import torch

from ..core import Data, Task
from ..targets import CLASSES, NUMBERS, Target
from .pool import Pool


class _Drawn(Pool):
    """A pool without stored examples: `deal(tasks, ways, shots, queries, rand, randn)` makes them."""

    def __init__(self, name, target: Target, shape, deal, device: torch.device | str = "cpu"):
        self.name, self.target, self.shape, self.deal = name, target, shape, deal
        self.device = torch.device(device)

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        source = {"generator": generator, "device": generator.device if generator is not None else "cpu"}
        rand, randn = lambda *n: torch.rand(n, **source), lambda *n: torch.randn(n, **source)
        support, query = self.deal(tasks, ways, shots, queries, rand, randn)
        return Task(*(Data(x.to(self.device), y.to(self.device)) for x, y in (support, query)))

    def to(self, device) -> "_Drawn":
        return _Drawn(self.name, self.target, self.shape, self.deal, device)


def sinusoid(
    *,
    amplitude: tuple[float, float] = (0.1, 5.0),
    phase: tuple[float, float] = (0.0, math.pi),
    frequency: tuple[float, float] = (1.0, 1.0),
    x: tuple[float, float] = (-5.0, 5.0),
) -> Pool:
    """Sine waves: y = A sin(w x - b), with A, b, w drawn once per task and x per example, all uniformly.

    Each argument is a range (low, high). `sample` gives x and y float32 [tasks, shots, 1] for the support set and
    [tasks, queries, 1] for the query set, and ignores ways. Raises ValueError for a range that runs backwards.
    Source: Finn, Abbeel, Levine, Model-Agnostic Meta-Learning, ICML 2017, section 5.1.

    >>> sinusoid().sample(tasks=3, shots=10, queries=20).query.y.shape
    torch.Size([3, 20, 1])
    """
    ranges = {"amplitude": amplitude, "phase": phase, "frequency": frequency, "x": x}
    for key, (low, high) in ranges.items():
        if not low <= high:
            raise ValueError(f"sinusoid({key}=({low}, {high})): expected (low, high) with low <= high.")

    def deal(tasks, ways, shots, queries, rand, randn):
        def draw(bounds, n):
            return bounds[0] + (bounds[1] - bounds[0]) * rand(tasks, n, 1)

        A, b, w = draw(amplitude, 1), draw(phase, 1), draw(frequency, 1)
        return [(s, A * torch.sin(w * s - b)) for s in (draw(x, shots), draw(x, queries))]

    return _Drawn("sinusoid", NUMBERS, (1,), deal)


def gaussians(*, dim: int = 2, spread: float = 2.0, noise: float = 0.5) -> Pool:
    """Clouds of points: x ~ N(m_k, noise^2 I), where each class k of each task has its own m_k ~ N(0, spread^2 I).

    `sample` gives x float32 [tasks, ways * n, dim] and y int64 [tasks, ways * n]; there is no end of classes.
    Raises ValueError unless dim is at least 1 and spread and noise are not negative.

    >>> gaussians(dim=3).sample(tasks=2, ways=5, shots=1).support.x.shape
    torch.Size([2, 5, 3])
    """
    if dim < 1 or spread < 0 or noise < 0:
        raise ValueError(f"gaussians({dim=}, {spread=}, {noise=}): expected dim >= 1, spread and noise >= 0.")

    def deal(tasks, ways, shots, queries, rand, randn):
        mean = spread * randn(tasks, ways, dim)
        for n in (shots, queries):
            y = rand(tasks, ways * n).argsort(1) // n
            x = mean.gather(1, y[..., None].expand(-1, -1, dim)) + noise * randn(tasks, ways * n, dim)
            yield x, y

    return _Drawn("gaussians", CLASSES, (dim,), deal)


def boolean(*, xor: bool = True) -> Pool:
    """Boolean functions of two bits: y = b(x), with b one of all 16; without XOR and XNOR, one of 14, unless `xor`.

    `sample` gives x [tasks, n, 2] and y [tasks, n, 1], both of 0. and 1., and ignores ways.
    Source: Hochreiter, Younger & Conwell, Learning to Learn Using Gradient Descent, ICANN 2001.

    >>> boolean().sample(tasks=3, shots=10, queries=20).query.x.shape
    torch.Size([3, 20, 2])
    """
    def deal(tasks, ways, shots, queries, rand, randn):
        k = (rand(tasks) * (16 if xor else 14)).long()  # the function whose value in row i is bit i of k
        if not xor:
            k = k + (k >= 0b0110) + (k >= 0b1000)  # without 0b0110, xor, and 0b1001, its negation
        for n in (shots, queries):
            x = (rand(tasks, n, 2) < 0.5).float()
            row = (2 * x[..., 0] + x[..., 1]).long()
            yield x, (k[:, None] >> row & 1).float()[..., None]

    return _Drawn("boolean", NUMBERS, (2,), deal)


def semilinear(*, weights: float = 1.0) -> Pool:
    """Half-planes with soft borders: y = (1 + tanh(w_1 x_1 + w_2 x_2 + w_3)) / 2, with each w_i of a task uniform in
    [-weights, weights] and x in [-1, 1]^2.

    `sample` gives x [tasks, n, 2] and y [tasks, n, 1], and ignores ways. Raises ValueError unless weights > 0.
    Source: Hochreiter, Younger & Conwell, Learning to Learn Using Gradient Descent, ICANN 2001.
    """
    if weights <= 0:
        raise ValueError(f"semilinear({weights=}): expected a positive number.")

    def deal(tasks, ways, shots, queries, rand, randn):
        w = weights * (2 * rand(tasks, 3, 1) - 1)
        for n in (shots, queries):
            x = 2 * rand(tasks, n, 2) - 1
            yield x, (1 + torch.tanh(x @ w[:, :2] + w[:, 2:])) / 2

    return _Drawn("semilinear", NUMBERS, (2,), deal)


def quadratic() -> Pool:
    """Quadratic functions of the plane: y = a x_1^2 + b x_2^2 + c x_1 x_2 + d x_1 + e x_2 + f on x in [-1, 1]^2, with a
    to f uniform in [-1, 1], then scaled so that each function's least and greatest values are 0.2 and 0.8.

    `sample` gives x [tasks, n, 2] and y [tasks, n, 1], and ignores ways.
    Source: Younger, Hochreiter & Conwell, Meta-learning with backpropagation, IJCNN 2001.

    >>> task = quadratic().sample(tasks=100, shots=1000)
    >>> bool(0.199 < task.support.y.min() < 0.21 and 0.79 < task.support.y.max() < 0.801)
    True
    """

    def value(k, x):
        u, v = x[..., :1], x[..., 1:]
        return torch.cat([u * u, v * v, u * v, u, v, torch.ones_like(u)], -1) @ k

    def extremes(k):
        """The least and the greatest value. They lie at a corner, where an edge is level, or where all is."""
        a, b, c, d, e, _ = k[..., 0].unbind(-1)
        one, det = torch.ones_like(a), 4 * a * b - c * c
        level = [(s * one, -(s * c + e) / (2 * b)) for s in (-1, 1)]
        level += [(-(s * c + d) / (2 * a), s * one) for s in (-1, 1)]
        level.append(((c * e - 2 * b * d) / det, (c * d - 2 * a * e) / det))
        corners = [(s * one, t * one) for s in (-1, 1) for t in (-1, 1)]
        places = torch.stack([torch.stack(uv, -1) for uv in corners + level], 1).clamp(-1, 1)
        values = value(k, places)
        return values.amin(1, keepdim=True), values.amax(1, keepdim=True)

    def deal(tasks, ways, shots, queries, rand, randn):
        k = 2 * rand(tasks, 6, 1) - 1
        low, high = extremes(k)
        for n in (shots, queries):
            x = 2 * rand(tasks, n, 2) - 1
            yield x, 0.2 + 0.6 * (value(k, x) - low) / (high - low)

    return _Drawn("quadratic", NUMBERS, (2,), deal)
