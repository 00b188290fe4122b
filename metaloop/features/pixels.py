"""Pictures without any learned weights: their pixels, or the directions of their edges and their colours.

The directions of edges, counted in the cells of a grid, are those of Dalal & Triggs, Histograms of Oriented Gradients
for Human Detection, CVPR 2005; signed and unsigned together, and each cell measured by its neighbours, as in
Felzenszwalb et al., Object Detection with Discriminatively Trained Part-Based Models, PAMI 2010, section 6. Here in two
sizes of cells, with the square root of the counts, and with histograms of brightness and of two differences of colours
beside them.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from .resized import Shown

BATCH = 16  # pictures at a time: what is made of them stays in a core's cache


class Pixels:
    """z = x / |x| of a picture x shrunk to size x size, three colours in [0, 1]: [n, 3 size^2]."""

    kind = "pictures"

    def __init__(self, size: int = 32):
        self.size = size
        self.name = f"pixels {size}x{size}"

    def __call__(self, examples: Any) -> Tensor:
        return unit(shrunk(examples, self.size).flatten(1))

    @property
    def shown(self) -> Shown:
        return Shown(self.size)

    def seen(self) -> Callable[[Tensor], Tensor]:
        return lambda x: unit(x.flatten(1))

    def spec(self) -> dict[str, Any]:
        return {"features": "pixels", "size": self.size}

    def tensors(self) -> dict[str, Tensor]:
        return {}


class Edges:
    """Directions of edges and colours of a picture shrunk to 64 x 64: [n, 2112], of length 1.

    Cells of 8 and 16 pixels, 16 directions with and 8 without their sign; colours in a grid of 4 x 4, four bins each of
    (r + g + b) / 3, (r - g) / 2 and (r + g - 2 b) / 4. The colours count half as much as the edges.
    """

    kind = "pictures"
    name = "edges and colours"
    size, cells, directions, colours = 64, (8, 16), 16, 0.5

    def __call__(self, examples: Any) -> Tensor:
        parts = (examples[at : at + BATCH] for at in range(0, len(examples), BATCH))
        return torch.cat([self._batch(shrunk(part, self.size)) for part in parts])

    @property
    def shown(self) -> Shown:
        return Shown(self.size)

    def seen(self) -> Callable[[Tensor], Tensor]:
        return lambda x: self._batch(x / 255)

    def _batch(self, x: Tensor) -> Tensor:
        strokes, parts = _directions(x, self.directions), []
        for cell in self.cells:
            signed = _pooled(strokes, cell)
            for h in (signed, signed[:, : self.directions // 2] + signed[:, self.directions // 2 :]):
                energy = F.pad(h.square().sum(1, keepdim=True), (1, 1, 1, 1), mode="replicate")
                parts.append(unit((h / (F.avg_pool2d(energy, 3, 1).sqrt() + 2e-3)).sqrt().flatten(1)))
        return unit(torch.cat([unit(torch.cat(parts, 1)), self.colours * unit(_colours(x))], 1))

    def spec(self) -> dict[str, Any]:
        return {"features": "edges"}

    def tensors(self) -> dict[str, Tensor]:
        return {}


def shrunk(examples: Any, size: int) -> Tensor:
    """Pictures as [n, 3, size, size] in [0, 1]: PIL images, or bytes [n, C, H, W] with C = 1 or 3."""
    if isinstance(examples, Tensor):
        x = examples.float() / 255 if examples.dtype == torch.uint8 else examples.float()
        x = x.expand(-1, 3, -1, -1)
        return F.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    small = [np.asarray(i.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)) for i in examples]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 255


def unit(z: Tensor) -> Tensor:
    """z / |z| of each row, 0 where |z| = 0."""
    return z / z.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _directions(x: Tensor, n: int) -> Tensor:
    """How strong the edges are in each of n directions: [b, n, h, w], of the colour whose edge is strongest there."""
    g = F.pad(x, (1, 1, 1, 1), mode="replicate")
    across, down = g[..., 1:-1, 2:] - g[..., 1:-1, :-2], g[..., 2:, 1:-1] - g[..., :-2, 1:-1]
    strength, colour = (across.square() + down.square()).max(1, keepdim=True)
    turn = torch.atan2(down.gather(1, colour), across.gather(1, colour)) / (2 * math.pi) * n
    off = (turn - torch.arange(n).view(1, n, 1, 1)) % n  # to the two directions next to it, in shares
    return (1 - torch.minimum(off, n - off)).clamp_min(0) * strength.sqrt()


def _pooled(x: Tensor, cell: int) -> Tensor:
    """The mean over cells that overlap by half, heaviest in their middle: [b, c, h / cell, w / cell]."""
    c = x.shape[1]
    weights = 1 - (torch.arange(2 * cell) + 0.5 - cell).abs() / cell
    weights = (weights / weights.sum()).expand(c, 1, -1)
    x = F.conv2d(F.pad(x, (cell // 2,) * 4), weights[..., None], stride=(cell, 1), groups=c)
    return F.conv2d(x, weights[:, :, None], stride=(1, cell), groups=c)


def _colours(x: Tensor, grid: int = 4, bins: int = 4) -> Tensor:
    r, g, b = x.unbind(1)
    scales = torch.stack([(r + g + b) / 3, (r - g) / 0.8 + 0.5, (r + g - 2 * b) / 1.6 + 0.5], 1).clamp(0, 1) * (
        bins - 1
    )
    near = (1 - (scales[:, :, None] - torch.arange(bins).view(bins, 1, 1)).abs()).clamp_min(0)
    return F.adaptive_avg_pool2d(near.flatten(1, 2), grid).flatten(1).sqrt()


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Pixels | Edges:
    return Edges() if spec["features"] == "edges" else Pixels(spec.get("size", 32))
