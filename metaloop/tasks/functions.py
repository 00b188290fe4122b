"""Tasks made of random functions: sine waves to regress, clouds of points to classify."""

import math

import torch

from ..core import Data, Task
from .pool import Pool


class _Drawn(Pool):
    """A pool without stored examples: `deal(tasks, ways, shots, queries, rand, randn)` makes them."""

    def __init__(self, name, kind, shape, deal, device: torch.device | str = "cpu"):
        self.name, self.kind, self.shape, self.deal = name, kind, shape, deal
        self.device = torch.device(device)

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        self._check_positive(tasks=tasks, ways=ways, shots=shots, queries=queries)
        source = {"generator": generator, "device": generator.device if generator is not None else "cpu"}
        rand, randn = lambda *n: torch.rand(n, **source), lambda *n: torch.randn(n, **source)
        support, query = self.deal(tasks, ways, shots, queries, rand, randn)
        return Task(*(Data(x.to(self.device), y.to(self.device)) for x, y in (support, query)))

    def to(self, device) -> "_Drawn":
        return _Drawn(self.name, self.kind, self.shape, self.deal, device)


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

    return _Drawn("sinusoid", "regression", (1,), deal)


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

    return _Drawn("gaussians", "classification", (dim,), deal)
