"""A decoder that reads what it has drawn: masked convolutions (van den Oord et al. 2016, arXiv:1601.06759)

    p(x | code) = prod_i p(x_i | x_1 .. x_{i-1}, code),    pixels row by row

Of a convolution's kernel there remain the rows above and what lies to the left: the first layer does not see the pixel
itself, the others see the features there, which do not hold it either.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .backbones import Conv2d

CELL = 4  # side of the squares of pixels that share what the code says


class Masked(nn.Module):
    """Codes and pictures of 0 and 1, side by side, to logits: [n, inputs + pixels] -> [n, 1, height, width].

    A pixel's logit is of the code and of the pixels before it: the code gives a map of `width` channels on a grid of
    4x4 pixels; a masked convolution of 7x7 and `depth` residual ones of 3x3 follow. Given codes alone, [n, inputs], it
    draws a picture for each, pixel by pixel, and answers the logits along the way; the noise is torch's own.
    """

    def __init__(self, inputs: int, shape: tuple[int, ...], *, width: int = 16, depth: int = 3):
        super().__init__()
        if len(shape) != 3 or shape[0] != 1:
            raise ValueError(f"Masked: pictures have shape {tuple(shape)}, expected one channel (1, height, width).")
        self.inputs, self.shape = inputs, tuple(shape)
        self.grid = tuple((side + CELL - 1) // CELL for side in shape[1:])
        self.code = nn.Linear(inputs, width * self.grid[0] * self.grid[1])
        self.first = MaskedConv2d(1, width, 7, itself=False)
        self.body = nn.ModuleList(MaskedConv2d(width, width, 3, itself=True) for _ in range(depth))
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, v: Tensor) -> Tensor:
        (_, height, width), inputs = self.shape, self.inputs
        coarse = self.code(v[:, :inputs]).view(len(v), -1, self.grid[0], 1, self.grid[1], 1)
        said = coarse.expand(-1, -1, -1, CELL, -1, CELL).flatten(4, 5).flatten(2, 3)[..., :height, :width]
        if v.shape[1] > inputs:
            return self._logits(said, v[:, inputs:].reshape(len(v), *self.shape))
        x, logits = torch.zeros_like(said[:, :1]), torch.zeros_like(said[:, :1])
        for i in range(height * width):
            rows = i // width + 1  # those below are not seen
            here = (torch.arange(height * width, device=v.device) == i).view(height, width)
            new = F.pad(self._logits(said[:, :, :rows], x[:, :, :rows]), (0, 0, 0, height - rows))
            logits = torch.where(here, new, logits)
            x = torch.where(here, (torch.rand_like(new) < new.sigmoid()).to(x), x)
        return logits

    def _logits(self, said: Tensor, x: Tensor) -> Tensor:
        h = self.first(x) + said
        for conv in self.body:
            h = h + conv(F.elu(h))
        return self.head(F.elu(h))


class MaskedConv2d(Conv2d):
    """A convolution of size x size that sees what is above and to the left; and its own place, or not."""

    def __init__(self, a: int, b: int, size: int, *, itself: bool):
        super().__init__(a, b, size, padding=size // 2)
        self.seen = size * size // 2 + itself

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.shape[-2:]
        mask = (torch.arange(kernel.numel(), device=x.device) < self.seen).view(kernel)
        return F.conv2d(x, self.weight * mask, self.bias, padding=self.padding)
