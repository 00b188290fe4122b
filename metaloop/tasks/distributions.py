"""Tasks that are probability distributions: points drawn from each, and its true log-density there."""

import math

import torch

from ..targets import DENSITIES
from .functions import _Drawn
from .pool import Pool


def distributions(
    *, mean: tuple[float, float] = (-1.0, 1.0), variance: tuple[float, float] = (0.5, 2.0)
) -> Pool:
    """Distributions on the line: exponential, Gaussian, uniform or Laplacian, with equal chances, of a mean and a
    variance drawn uniformly from those ranges (low, high).

    `sample` gives x float32 [tasks, n, 1], points drawn from each task's distribution, and y [tasks, n, 1], the
    logarithm of its density at x; it ignores ways. Raises ValueError for a range that runs backwards, or variances that
    are not positive.
    Source: Edwards & Storkey, Towards a Neural Statistician, ICLR 2017, section 5.1.

    >>> distributions().sample(tasks=3, shots=200).support.x.shape
    torch.Size([3, 200, 1])
    """
    for key, (low, high) in {"mean": mean, "variance": variance}.items():
        if not low <= high or (key == "variance" and low <= 0):
            raise ValueError(f"distributions({key}=({low}, {high})): expected (low, high), low <= high; variance > 0.")

    def deal(tasks, ways, shots, queries, rand, randn):
        family = (4 * rand(tasks, 1, 1)).long()
        m = mean[0] + (mean[1] - mean[0]) * rand(tasks, 1, 1)
        s = (variance[0] + (variance[1] - variance[0]) * rand(tasks, 1, 1)).sqrt()
        for n in (shots, queries):
            waiting, normal, u = -(1 - rand(tasks, n, 1)).log(), randn(tasks, n, 1), 2 * rand(tasks, n, 1) - 1
            each = (  # standardised: points, and their log-densities
                (waiting - 1, -waiting),
                (normal, -normal.square() / 2 - math.log(2 * math.pi) / 2),
                (u * math.sqrt(3), torch.full_like(u, -math.log(2 * math.sqrt(3)))),
                (torch.where(u < 0, -waiting, waiting) / math.sqrt(2), -waiting - math.log(2) / 2),
            )
            e, log_p = (torch.cat(column, -1).gather(-1, family.expand(-1, n, 1)) for column in zip(*each, strict=True))
            yield m + s * e, log_p - s.log()

    return _Drawn("distributions", DENSITIES, (1,), deal)
