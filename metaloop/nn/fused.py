"""A convolutional block in fewer passes over memory, and convolutions of many tasks, with the numbers of the layers."""

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


def by_columns(conv: Any, x: Tensor) -> Tensor:
    """conv(x) as products of weights and columns: what each output position sees, [n, channels * kernel, positions].

    For tasks that have weights of their own, on a GPU: vmap makes them groups of one convolution, and cuDNN takes the
    groups one by one on the way back. Products of matrices are batched, and one kernel makes all tasks' columns. They
    are in the precision that torch has for products of matrices.
    """
    how = {name: getattr(conv, name) for name in ("kernel_size", "dilation", "padding", "stride")}
    columns: Any = Columns.apply(x.flatten(0, 1), how)
    reach = [d * (k - 1) - 2 * p for d, k, p in zip(conv.dilation, conv.kernel_size, conv.padding, strict=True)]
    height = (x.shape[2] - reach[0] - 1) // conv.stride[0] + 1
    out = conv.weight.flatten(1) @ columns.reshape(len(x), -1, columns.shape[-1])
    out = out if conv.bias is None else out + conv.bias[:, None]
    return out.unflatten(-1, (height, -1))


class Columns(torch.autograd.Function):
    """Pictures [n, h, w] -> their columns [n, kernel, positions]; linear, so that Pictures is its derivative.

    A task axis, like channels, is more pictures.
    """

    @staticmethod
    def forward(x: Tensor, how: dict[str, Any]) -> Tensor:
        return nn.functional.unfold(x[None], **how).unflatten(1, (len(x), -1))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.size, ctx.how = inputs[0].shape[1:], inputs[1]

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return Pictures.apply(*g, ctx.how, ctx.size), None

    @staticmethod
    def jvp(ctx: Any, *g: Any) -> Any:
        return Columns.apply(g[0], ctx.how)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, how: dict[str, Any]) -> Any:
        x = x.movedim(in_dims[0], 0)
        return Columns.apply(x.flatten(0, 1), how).unflatten(0, x.shape[:2]), 0


class Pictures(torch.autograd.Function):
    """Columns [n, kernel, positions] -> pictures [n, h, w], each entry added where it was seen."""

    @staticmethod
    def forward(columns: Tensor, how: dict[str, Any], size: Any) -> Tensor:
        return nn.functional.fold(columns.flatten(0, 1)[None], size, **how)[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.how, ctx.size = inputs[1:]

    @staticmethod
    def backward(ctx: Any, *g: Any) -> Any:
        return Columns.apply(*g, ctx.how), None, None

    @staticmethod
    def jvp(ctx: Any, *g: Any) -> Any:
        return Pictures.apply(g[0], ctx.how, ctx.size)

    @staticmethod
    def vmap(info: Any, in_dims: Any, columns: Tensor, how: dict[str, Any], size: Any) -> Any:
        columns = columns.movedim(in_dims[0], 0)
        return Pictures.apply(columns.flatten(0, 1), how, size).unflatten(0, columns.shape[:2]), 0
