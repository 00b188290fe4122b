"""The networks of the papers. Each is `body` (features) and, where `out` is given, a linear `head`."""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.compiler import is_compiling

from ..torch_private import per_task
from .fused import Block, by_columns
from .norms import norm


class Backbone(nn.Sequential):
    """`body`, which gives features of size `dim`, and a `head` where there is one.

    shape: of the features of an example: (dim,), or (dim, height, width) of a map.
    """

    body: nn.Module

    def __init__(self, body: nn.Module, dim: int, head: nn.Module | None, size: Sequence[int] = ()):
        super().__init__(OrderedDict(body=body) if head is None else OrderedDict(body=body, head=head))
        self.dim, self.shape = dim, (dim, *size)


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
    downsample: "max" (Vinyals et al. 2016: stride 1, then 2x2 max-pooling), "stride" (MAML's Omniglot network: stride
    2, no pooling) or "twice" (Sung et al. 2018: stride 1, the first two blocks without a margin and pooled, the others
    neither). features: "flatten" all positions, their "mean", or the "map" itself, [n, width, h, w], which has no head.
    Convolutions are Xavier-initialised; a bias before a norm of each channel would be void, so only group
    and layer norms keep one.
    """
    if downsample not in ("max", "stride", "twice"):
        raise ValueError(f"conv4: downsample is {downsample!r}, expected 'max', 'stride' or 'twice'.")
    if len(shape) != 3:
        raise ValueError(f"conv4: inputs have shape {tuple(shape)}, expected images (channels, height, width).")
    check_features("conv4", features, ("flatten", "mean", "map"), out)
    channels, *size = shape
    blocks: list[nn.Module] = []
    for i in range(4):
        stride = 2 if downsample == "stride" else 1
        margin = 0 if downsample == "twice" and i < 2 else 1
        pools = downsample == "max" or margin == 0
        bias = norm_policy in ("group", "layer")
        layers = [
            ("conv", Conv2d(channels, width, 3, stride=stride, padding=margin, bias=bias)),
            ("norm", norm(width, norm_policy)),
            ("relu", nn.ReLU()),
        ]
        size = [(s + 2 * margin - 3) // stride + 1 for s in size]
        if pools:
            size = [s // 2 for s in size]
            layers.append(("pool", nn.MaxPool2d(2)))
        blocks.append(Block(OrderedDict(layers)))
        channels = width
    if min(size) < 1:
        least = 10 if downsample == "twice" else 16
        raise ValueError(f"conv4: inputs of {shape[1]}x{shape[2]} vanish. Use at least {least}x{least}.")
    body = nn.Sequential(*blocks, *last(features))
    if features == "map":
        return Backbone(body, width, None, size)
    return with_head(body, width * size[0] * size[1] if features == "flatten" else width, out)


def mlp(sizes: Sequence[int], *, norm_policy: str | None = None) -> Backbone:
    """A multi-layer perceptron with ReLU: sizes = (input, hidden, ..., output). Inputs are flattened."""
    if len(sizes) < 2:
        raise ValueError(f"mlp: sizes is {tuple(sizes)}, expected at least (input, output).")
    body = []
    for a, b in pairwise(sizes[:-1]):
        body += [nn.Linear(a, b)]
        body += [norm(b, norm_policy)] if norm_policy else []
        body += [nn.ReLU()]
    return with_head(nn.Sequential(nn.Flatten(), *body), sizes[-2], sizes[-1])


def resnet12(
    shape: tuple[int, ...] = (3, 84, 84),
    *,
    out: int | None = None,
    widths: Sequence[int] = (64, 160, 320, 640),
    norm_policy: str = "transductive",
    features: str = "mean",
    dropout: float = 0.0,
) -> Backbone:
    """ResNet-12 (Lee et al. 2019, arXiv:1904.03758): four residual blocks of three 3x3 convolutions, each
    closed by 2x2 max-pooling, then the mean over positions. Their DropBlock is left out, and convolutions are
    Xavier-initialised. features: the "mean", or the "map" [n, widths[-1], h, w], which has no head. dropout: how much
    of a block's output is dropped in meta-training."""
    check_features("resnet12", features, ("mean", "map"), out)
    channels, blocks = shape[0], []
    for width in widths:
        blocks.append(_Residual(channels, width, norm_policy, noise("resnet12", dropout)))
        channels = width
    body = nn.Sequential(*blocks, *last(features))
    if features == "map":
        return Backbone(body, channels, None, [s // 2 ** len(widths) for s in shape[1:]])
    return with_head(body, channels, out)


def noise(name: str, dropout: float) -> nn.Module:
    """A dropout layer, or what does nothing where there is nothing to drop: it draws no numbers."""
    if not 0 <= dropout < 1:
        raise ValueError(f"{name}: dropout is {dropout}, expected a share from 0 to below 1.")
    return nn.Dropout(dropout) if dropout else nn.Identity()


class _Residual(nn.Module):
    def __init__(self, channels: int, width: int, policy: str, noise: nn.Module):
        super().__init__()
        layers: list[nn.Module] = []
        for i in range(3):
            layers += [Conv2d(channels if i == 0 else width, width, 3, padding=1, bias=False)]
            layers += [norm(width, policy)] + ([nn.LeakyReLU(0.1)] if i < 2 else [])
        self.path = nn.Sequential(*layers)
        self.skip = nn.Sequential(Conv2d(channels, width, 1, bias=False), norm(width, policy))
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        y = nn.functional.leaky_relu(self.path(x) + self.skip(x), 0.1)
        return self.noise(nn.functional.max_pool2d(y, 2))


class Conv2d(nn.Conv2d):
    """Convolution initialised as Glorot & Bengio 2010, bias zero."""

    def forward(self, input: Tensor) -> Tensor:
        plain = self.groups == 1 and self.padding_mode == "zeros" and not isinstance(self.padding, str)
        if input.device.type == "cuda" and plain and input.ndim == 4 and not is_compiling() and per_task():
            return by_columns(self, input)
        return super().forward(input)

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Mean(nn.Module):
    """The mean over positions: [n, channels, ...] -> [n, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mean(-1)


def check_features(name: str, features: str, known: tuple[str, ...], out: int | None) -> None:
    if features not in known:
        raise ValueError(f"{name}: features is {features!r}, expected {' or '.join(map(repr, known))}.")
    if features == "map" and out is not None:
        raise ValueError(f"{name}: out is {out} with features='map', expected None. A map has no linear head.")


def check_sizes(name: str, *, widths: Sequence[int], blocks: Sequence[int]) -> None:
    if len(widths) != len(blocks) or not widths:
        raise ValueError(f"{name}: {len(widths)} widths for {len(blocks)} stages of blocks. Give one for each.")


def last(features: str) -> list[nn.Module]:
    """What makes features of a map."""
    return {"flatten": [nn.Flatten()], "mean": [Mean()], "map": []}[features]


def with_head(body: nn.Sequential, dim: int, out: int | None) -> Backbone:
    return Backbone(body, dim, None if out is None else nn.Linear(dim, out))
