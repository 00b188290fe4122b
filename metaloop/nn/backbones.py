"""The networks of the papers. Each is `body` (features) and, where `out` is given, a linear `head`."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .norms import BatchNorm, norm


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

    Compiled for a CPU a block with a batch norm is written in another way, which is the same and takes less time:

    - The convolution of a single channel is patches x weights, which leaves the channels last. All layers after it then
      have one layout; torch would keep the first one's channels first, and transpose back and forth in each norm.
    - The norm comes after the pooling, with the statistics of before: to multiply by a positive number and to add
      another leaves the largest of four the largest. It has a quarter of the numbers to do. Where several of the four
      are the largest they share the gradient, which elsewhere is the first's.
    """

    conv: nn.Module
    norm: nn.Module
    relu: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        if not (x.device.type == "cpu" and torch.compiler.is_compiling() and isinstance(self.norm, BatchNorm)):
            return super().forward(x)
        x = self.conv(x) if x.shape[-3] > 1 else _by_patches(self.conv, x)
        if not hasattr(self, "pool"):
            return self.relu(self.norm(x))
        sign = torch.where(self.norm.weight < 0, -1.0, 1.0).to(x)[:, None, None]
        return self.relu(self.norm(_largest_of_fours(x * sign) * sign, of=x))


def _by_patches(conv: Any, x: Tensor) -> Tensor:
    """conv(x), for x of one channel, as a matrix product."""
    (a, b), (k, m), (s, t) = conv.padding, conv.kernel_size, conv.stride
    patches = nn.functional.pad(x, (b, b, a, a))[:, 0].unfold(1, k, s).unfold(2, m, t)  # [n, height, width, k, m]
    return nn.functional.linear(patches.flatten(3), conv.weight.flatten(1), conv.bias).movedim(-1, 1)


def _largest_of_fours(x: Tensor) -> Tensor:
    """2x2 max-pooling."""
    height, width = x.shape[-2] // 2, x.shape[-1] // 2
    return x[..., : 2 * height, : 2 * width].reshape(*x.shape[:-2], height, 2, width, 2).amax((-3, -1))


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
