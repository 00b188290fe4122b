"""Pillow's resizing as arithmetic, for a graph that has no Pillow: `metaloop export`.

A row of n pixels becomes one of `size` by a matrix: W_ij = k((j + 1/2 - c_i) / max(n / size, 1)), each row divided by
its sum, with c_i = (i + 1/2) n / size the middle of the new pixel in the old row, and k of Keys, Cubic convolution
interpolation for digital image processing, IEEE Transactions on Acoustics, Speech and Signal Processing 29, 1981, at
a = -1/2, or a triangle. Rows first, then columns, each rounded to bytes.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Shown(NamedTuple):
    """How a picture is shown: size x size pixels, by a cubic kernel or a triangle; of a share below 1 the middle
    square that is this share of its shorter side."""

    size: int
    cubic: bool = False
    share: float = 1.0


def resized(images: Tensor, shown: Shown) -> Tensor:
    """Bytes [n, 3, H, W] as whole numbers 0 to 255, float32 [n, 3, size, size]. H and W may be unknown to a graph."""
    x = images.double()
    height, width = (torch.arange(n, dtype=torch.float64) for n in x.shape[-2:])
    shorter = torch.minimum(height[-1], width[-1]) + 1
    side = (shorter * shown.share).floor().clamp_min(1) if shown.share < 1 else None
    x = (x @ _weights(width, shown, side).T + 0.5).floor().clamp(0, 255)
    return (_weights(height, shown, side) @ x + 0.5).floor().clamp(0, 255).float()


def _weights(j: Tensor, shown: Shown, side: Tensor | None) -> Tensor:
    n = j[-1] + 1
    long = n if side is None else side
    first = ((n - long + 1) / 2).floor()
    scale = long / shown.size
    middle = first + (torch.arange(shown.size, dtype=torch.float64) + 0.5) * scale
    far = ((j + 0.5 - middle[:, None]) / scale.clamp_min(1)).abs()
    inside = (j >= first) & (j < first + long)
    w = torch.where(inside, _cubic(far) if shown.cubic else (1 - far).clamp_min(0), 0.0)
    return w / w.sum(1, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
