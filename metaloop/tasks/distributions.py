"""Tasks that are probability distributions: points drawn from each, and its true log-density there."""

import math

import torch
from torch import Tensor

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


def planar(*, mean: tuple[float, float] = (-0.5, 0.5), scale: tuple[float, float] = (0.7, 1.3)) -> Pool:
    """Distributions in the plane: a blurred circle, a cross of two strokes or three blobs, with equal chances, turned
    by any angle, scaled by `scale` (low, high) and moved by `mean` (low, high) in each coordinate, drawn uniformly.

    `sample` gives x float32 [tasks, n, 2], points drawn from each task's distribution, and y [tasks, n, 1], the
    logarithm of its density at x, in nats; it ignores ways. Raises ValueError for a range that runs backwards, or
    scales that are not positive.

    >>> planar().sample(tasks=3, shots=200).support.x.shape
    torch.Size([3, 200, 2])
    """
    for key, (low, high) in {"mean": mean, "scale": scale}.items():
        if not low <= high or (key == "scale" and low <= 0):
            raise ValueError(f"planar({key}=({low}, {high})): expected (low, high), low <= high; scale > 0.")

    def deal(tasks, ways, shots, queries, rand, randn):
        family = (3 * rand(tasks, 1, 1)).long()
        m = mean[0] + (mean[1] - mean[0]) * rand(tasks, 1, 2)
        s, angle = scale[0] + (scale[1] - scale[0]) * rand(tasks, 1, 1), 2 * math.pi * rand(tasks, 1)
        cos, sin = angle.cos(), angle.sin()
        turn = torch.stack([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 1)
        for n in (shots, queries):
            around, which, noise = 2 * math.pi * rand(tasks, n, 1), rand(tasks, n), randn(tasks, n, 2)
            each = [torch.cat([around.cos(), around.sin()], -1) + BLUR * noise]
            for means, deviations in MIXTURES:
                k = (len(means) * which).long()
                each.append(torch.tensor(means)[k] + torch.tensor(deviations)[k] * noise)
            e = torch.stack(each, -1).gather(-1, family[..., None].expand(-1, n, 2, 1))[..., 0]
            every = (log_circle(e), *(log_mixture(e, *mixture) for mixture in MIXTURES))
            log_p = torch.stack(every, -1).gather(-1, family.expand(-1, n, 1))
            yield m + s * e @ turn, log_p - 2 * s.log()

    return _Drawn("planar", DENSITIES, (2,), deal)


BLUR = 0.15  # deviation of the circle of radius 1, in each coordinate
THIRD = 2 * math.pi / 3
MIXTURES = (  # of normals, with equal chances: means, deviations
    (((0.0, 0.0), (0.0, 0.0)), ((0.8, 0.1), (0.1, 0.8))),
    (tuple((math.cos(k * THIRD), math.sin(k * THIRD)) for k in range(3)), ((0.2, 0.2),) * 3),
)


def log_circle(x: Tensor) -> Tensor:
    """log p of a uniform point of the unit circle plus noise: N(|x|; 1, b^2) up to the Bessel function I_0."""
    r, v = x.norm(dim=-1), BLUR**2
    return -(r - 1).square() / (2 * v) + torch.special.i0e(r / v).log() - math.log(2 * math.pi * v)


def log_mixture(x: Tensor, means, deviations) -> Tensor:
    """log p of a mixture of normals with independent coordinates, with equal chances."""
    s = torch.tensor(deviations)
    square = ((x[..., None, :] - torch.tensor(means)) / s).square().sum(-1) / 2
    return (-square - s.log().sum(-1)).logsumexp(-1) - math.log(2 * math.pi * len(means))
