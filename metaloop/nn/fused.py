"""A convolutional block in fewer passes over memory, with the numbers of its layers."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.compiler import is_compiling

from ..torch_private import in_vmap
from .norms import BatchNorm, moments, refuse_one


class Block(nn.Sequential):
    """conv, norm, relu and, where there is one, 2x2 max-pooling.

    On a CPU a block with a batch norm is written in other ways, which are the same and take less time:

    - If the patches of the convolution are fewer numbers than its outputs (nine for a grey picture), the norm's
      statistics are made of the patches' mean and covariance, and its scale and shift go into the weights.
    - Compiled, the norm of other blocks comes after the pooling, with the statistics of before: to multiply by a
      positive number and to add another leaves the largest of four the largest. It has a quarter of the numbers to do.
      Where several of the four are the largest they share the gradient, which elsewhere is the first's.
    """

    conv: Any
    norm: nn.Module
    relu: nn.Module
    pool: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        cast = torch.is_autocast_enabled("cpu")  # of products, but not of batched convolutions
        if x.device.type != "cpu" or cast or not isinstance(self.norm, BatchNorm):
            return super().forward(x)
        compiled, pools = is_compiling(), hasattr(self, "pool")
        if self.conv.weight[0].numel() < self.conv.out_channels:
            x = self.relu(_by_patches(self.conv, self.norm, x))
            if not pools:
                return x
            if compiled:
                return _largest_of_fours(x)
            return self.pool(x.contiguous() if in_vmap() else x)  # batched, its derivatives want channels first
        if not (compiled and pools):
            return super().forward(x)
        x = self.conv(x)
        scale, shift = (t[:, None, None] for t in self.norm.affine(lambda: moments(x)))
        sign = torch.where(scale < 0, -1.0, 1.0).to(x)
        return self.relu(_largest_of_fours(x * sign) * (scale * sign) + shift)


def _by_patches(conv: Any, norm: BatchNorm, x: Tensor) -> Tensor:
    """norm(conv(x)) as one product of patches p and weights, with the channels last in memory.

    The mean of W p + b is W mean(p) + b, its variance the diagonal of W cov(p) W^T, and norm(W p + b) =
    (scale W) p + (scale b + shift). The last term stands below the weights, for a last entry 1 of each patch.
    """
    patches = _patches(conv, x)
    weight, bias = conv.weight.flatten(1), 0.0 if conv.bias is None else conv.bias

    def of_product() -> tuple[Tensor, Tensor]:
        rows, w = patches.flatten(0, 2).double(), weight.double()  # a variance may be far smaller than its terms
        refuse_one(rows.shape[0], "BatchNorm", patches)
        mean = rows.mean(0)
        rows = rows - mean
        cov = rows.mT @ rows / rows.shape[0]
        return (w @ mean).to(weight) + bias, (w @ cov * w).sum(1).to(weight)

    scale, shift = norm.affine(of_product)
    both = torch.cat([(weight * scale[:, None]).mT, (scale * bias + shift)[None]])
    return (nn.functional.pad(patches, (0, 1), value=1.0) @ both).movedim(-1, 1)


def _patches(conv: Any, x: Tensor) -> Tensor:
    """What each output position of a convolution sees: [n, height, width, channels * kernel]."""
    (a, b), (k, m), (s, t) = conv.padding, conv.kernel_size, conv.stride
    x = nn.functional.pad(x, (b, b, a, a))
    height, width = (x.shape[2] - k) // s + 1, (x.shape[3] - m) // t + 1
    shifted = [x[:, :, i : i + s * height : s, j : j + t * width : t] for i in range(k) for j in range(m)]
    return torch.stack(shifted, -1).movedim(1, 3).flatten(3)


def _largest_of_fours(x: Tensor) -> Tensor:
    """2x2 max-pooling, with the channels last in memory."""
    n, channels, height, width = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    fours = x[:, :, : 2 * height, : 2 * width].movedim(1, -1).reshape(n, height, 2, width, 2, channels)
    return fours.amax((2, 4)).movedim(-1, 1)
