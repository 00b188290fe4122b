"""The networks of the papers. Each is `body` (features) and, where `out` is given, a linear `head`."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import TransformType, get_interpreter_stack

from .norms import BatchNorm, moments, norm


class Backbone(nn.Sequential):
    """`body`, which gives features of size `dim`, and a `head` where there is one."""

    body: nn.Module

    def __init__(self, body: nn.Module, dim: int, head: nn.Module | None):
        super().__init__(OrderedDict(body=body) if head is None else OrderedDict(body=body, head=head))
        self.dim = dim


def conv4(
    shape: tuple[int, ...] = (1, 28, 28),
    *,
    out: int | None = None,
    width: int = 64,
    downsample: str = "max",
    norm_policy: str = "transductive",
    features: str = "flatten",
) -> Backbone:
    """Four blocks of 3x3 convolution, norm, ReLU; the network of most few-shot papers.

    shape: (channels, height, width) of an input. out: size of the linear head, or None for the features.
    downsample: "max" (Vinyals et al. 2016: stride 1, then 2x2 max-pooling) or "stride" (MAML's Omniglot
    network: stride 2, no pooling). features: "flatten" all positions, or their "mean".
    Convolutions are Xavier-initialised; a bias before a norm of each channel would be void, so only group
    and layer norms keep one.
    """
    if downsample not in ("max", "stride"):
        raise ValueError(f"conv4: downsample is {downsample!r}, expected 'max' or 'stride'.")
    if len(shape) != 3:
        raise ValueError(f"conv4: inputs have shape {tuple(shape)}, expected images (channels, height, width).")
    if features not in ("flatten", "mean"):
        raise ValueError(f"conv4: features is {features!r}, expected 'flatten' or 'mean'.")
    channels, *size = shape
    blocks = []
    for _ in range(4):
        stride = 2 if downsample == "stride" else 1
        bias = norm_policy in ("group", "layer")
        layers = [
            ("conv", Conv2d(channels, width, 3, stride=stride, padding=1, bias=bias)),
            ("norm", norm(width, norm_policy)),
            ("relu", nn.ReLU()),
        ]
        size = [(s + 1) // 2 if downsample == "stride" else s // 2 for s in size]
        if downsample == "max":
            layers.append(("pool", nn.MaxPool2d(2)))
        blocks.append(Block(OrderedDict(layers)))
        channels = width
    if min(size) < 1:
        raise ValueError(f"conv4: inputs of {shape[1]}x{shape[2]} vanish in four halvings. Use at least 16x16.")
    if features == "mean":
        body, dim = nn.Sequential(*blocks, Mean()), width
    else:
        body, dim = nn.Sequential(*blocks, nn.Flatten()), width * size[0] * size[1]
    return _with_head(body, dim, out)


def mlp(sizes: Sequence[int], *, norm_policy: str | None = None) -> Backbone:
    """A multi-layer perceptron with ReLU: sizes = (input, hidden, ..., output). Inputs are flattened."""
    if len(sizes) < 2:
        raise ValueError(f"mlp: sizes is {tuple(sizes)}, expected at least (input, output).")
    body = []
    for a, b in pairwise(sizes[:-1]):
        body += [nn.Linear(a, b)]
        body += [norm(b, norm_policy)] if norm_policy else []
        body += [nn.ReLU()]
    return _with_head(nn.Sequential(nn.Flatten(), *body), sizes[-2], sizes[-1])


def resnet12(
    shape: tuple[int, ...] = (3, 84, 84),
    *,
    out: int | None = None,
    widths: Sequence[int] = (64, 160, 320, 640),
    norm_policy: str = "transductive",
) -> Backbone:
    """ResNet-12 (Lee et al. 2019, arXiv:1904.03758): four residual blocks of three 3x3 convolutions, each
    closed by 2x2 max-pooling, then the mean over positions. Their DropBlock is left out, and convolutions are
    Xavier-initialised."""
    channels, blocks = shape[0], []
    for width in widths:
        blocks.append(_Residual(channels, width, norm_policy))
        channels = width
    return _with_head(nn.Sequential(*blocks, Mean()), channels, out)


class _Residual(nn.Module):
    def __init__(self, channels: int, width: int, policy: str):
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [Conv2d(channels if i == 0 else width, width, 3, padding=1, bias=False)]
            layers += [norm(width, policy)] + ([nn.LeakyReLU(0.1)] if i < 2 else [])
        self.path = nn.Sequential(*layers)
        self.skip = nn.Sequential(Conv2d(channels, width, 1, bias=False), norm(width, policy))

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.leaky_relu(self.path(x) + self.skip(x), 0.1)
        return nn.functional.max_pool2d(y, 2)


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
        compiled, pools = torch.compiler.is_compiling(), hasattr(self, "pool")
        if self.conv.weight[0].numel() < self.conv.out_channels:
            x = self.relu(_by_patches(self.conv, self.norm, x))
            if not pools:
                return x
            return _largest_of_fours(x) if compiled else self.pool(x.contiguous() if _in_vmap() else x)
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
        mean = rows.mean(0)
        rows = rows - mean
        cov = rows.mT @ rows / len(rows)
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


def _in_vmap() -> bool:
    """Whether tasks are batched here; torch's rules for the derivatives of pooling then want channels first."""
    return any(level.key() == TransformType.Vmap for level in get_interpreter_stack() or ())


def _largest_of_fours(x: Tensor) -> Tensor:
    """2x2 max-pooling, with the channels last in memory."""
    n, channels, height, width = x.shape[0], x.shape[1], x.shape[2] // 2, x.shape[3] // 2
    fours = x[:, :, : 2 * height, : 2 * width].movedim(1, -1).reshape(n, height, 2, width, 2, channels)
    return fours.amax((2, 4)).movedim(-1, 1)


class Conv2d(nn.Conv2d):
    """Convolution initialised as Glorot & Bengio 2010, bias zero."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Mean(nn.Module):
    """The mean over positions: [n, channels, ...] -> [n, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1)


def _with_head(body: nn.Sequential, dim: int, out: int | None) -> Backbone:
    return Backbone(body, dim, None if out is None else nn.Linear(dim, out))
