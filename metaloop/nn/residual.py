"""Residual networks beside ResNet-12: with blocks of two convolutions, and with split attention.

Each is a `Backbone`: `body`, which gives features, and a `head` where `out` is given.
"""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from .backbones import Backbone, Conv2d, check_features, check_sizes, last, with_head
from .norms import norm

WIDTHS = (64, 128, 256, 512)


def resnet18(
    shape: tuple[int, ...] = (3, 84, 84),
    *,
    out: int | None = None,
    widths: Sequence[int] = WIDTHS,
    blocks: Sequence[int] = (2, 2, 2, 2),
    stem: str = "small",
    norm_policy: str = "transductive",
    features: str = "mean",
) -> Backbone:
    """ResNet-18 (He et al. 2016, arXiv:1512.03385): in each of four stages two residual blocks,

        y = relu(norm(conv(relu(norm(conv(x))))) + skip(x)),

    3x3 convolutions, the first of each stage but the first of stride 2. skip is x itself, or a 1x1 convolution and a
    norm where the size changes. blocks: in each stage; (3, 4, 6, 3) is ResNet-34.

    shape: (channels, height, width) of an input. out: size of the linear head, or None for the features. stem: "small",
    one 3x3 convolution, or "large" as the paper has it for photographs of 224 x 224: 7x7 of stride 2, then 3x3
    max-pooling of stride 2. features: the "mean" over positions, or the "map" [n, widths[-1], h, w], which has no head.
    Convolutions are Xavier-initialised; for the paper's start see `drawn`. Raises ValueError on an unknown stem or
    kind of features, and on as many widths as not stages.
    """
    layers, channels, size = _stem("resnet18", shape, stem, _seven, widths[0], norm_policy)
    check_features("resnet18", features, ("mean", "map"), out)
    check_sizes("resnet18", widths=widths, blocks=blocks)
    for i, (width, n) in enumerate(zip(widths, blocks, strict=True)):
        for j in range(n):
            stride = 2 if i > 0 and j == 0 else 1
            layers.append(_Basic(channels, width, stride, norm_policy))
            channels, size = width, [-(-s // stride) for s in size]
    return _finished(layers, channels, size, features, out)


def resnest(
    shape: tuple[int, ...] = (3, 84, 84),
    *,
    out: int | None = None,
    widths: Sequence[int] = WIDTHS,
    blocks: Sequence[int] = (1, 1, 1, 1),
    radix: int = 2,
    stem: str = "small",
    norm_policy: str = "transductive",
    features: str = "mean",
) -> Backbone:
    """ResNeSt (Zhang et al. 2020, arXiv:2004.08955): residual blocks of a 1x1 convolution, `SplitAttention` and a 1x1
    convolution to four times the width. Where the size is halved, a mean of 3x3 positions does it after the attention,
    and one of 2x2 before the skip's convolution. blocks: (1, 1, 1, 1) is ResNeSt-14, (3, 4, 6, 3) ResNeSt-50.

    stem: "small", one 3x3 convolution, or "large": three of them, the first of stride 2, then 3x3 max-pooling of stride
    2. The features are 4 widths[-1] numbers. Other arguments and errors as in `resnet18`; ValueError for radix < 1 too.
    """
    layers, channels, size = _stem("resnest", shape, stem, _three, widths[0], norm_policy)
    check_features("resnest", features, ("mean", "map"), out)
    check_sizes("resnest", widths=widths, blocks=blocks)
    for i, (width, n) in enumerate(zip(widths, blocks, strict=True)):
        for j in range(n):
            stride = 2 if i > 0 and j == 0 else 1
            layers.append(_Bottleneck(channels, width, stride, radix, norm_policy))
            channels, size = 4 * width, [-(-s // stride) for s in size]
    return _finished(layers, channels, size, features, out)


class SplitAttention(nn.Module):
    """Split attention (arXiv:2004.08955, one cardinal group): R maps of the input, and how much of each, by channel.

        U_1 .. U_R = relu(norm(conv(x)))          a 3x3 convolution in R groups; each U_r has `width` channels
        s          = mean over positions of U_1 + .. + U_R
        a_r        = softmax over r of (B relu(norm(A s)))_r          for R = 1 the sigmoid
        y          = sum_r a_r U_r

    [n, channels, h, w] -> [n, width, h, w]. A has max(channels R / 4, 32) rows. Its norm has one number a channel and
    example, so that under "instance" it is a layer norm; under "transductive" and "support" it needs several examples.
    Raises ValueError for R < 1 or one that does not divide the channels.
    """

    def __init__(self, channels: int, width: int, *, radix: int = 2, norm_policy: str = "transductive"):
        super().__init__()
        if radix < 1 or channels % radix:
            raise ValueError(
                f"SplitAttention: radix is {radix}, expected at least 1, and to divide {channels} channels."
            )
        self.radix, hidden = radix, max(channels * radix // 4, 32)
        self.conv = Conv2d(channels, width * radix, 3, padding=1, groups=radix, bias=False)
        self.norm = norm(width * radix, norm_policy)
        self.gate = nn.Sequential(
            nn.Linear(width, hidden, bias=norm_policy in ("group", "layer", "instance")),  # else void
            norm(hidden, "layer" if norm_policy == "instance" else norm_policy),
            nn.ReLU(),
            nn.Linear(hidden, width * radix),
        )

    def forward(self, x: Float[Tensor, "n channels h w"]) -> Float[Tensor, "n width h w"]:
        u = self.norm(self.conv(x)).relu()
        u = u.reshape(len(x), self.radix, -1, *u.shape[2:])  # [n, R, width, h, w]
        a = self.gate(u.sum(1).mean((2, 3))).reshape(len(x), self.radix, -1)
        a = a.softmax(1) if self.radix > 1 else a.sigmoid()
        return (a[..., None, None] * u).sum(1)


class _Basic(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, policy: str):
        super().__init__()
        self.path = nn.Sequential(
            Conv2d(channels, width, 3, stride=stride, padding=1, bias=False), norm(width, policy), nn.ReLU(),
            Conv2d(width, width, 3, padding=1, bias=False), norm(width, policy),
        )  # fmt: skip
        self.skip = nn.Identity()
        if stride > 1 or channels != width:
            self.skip = nn.Sequential(Conv2d(channels, width, 1, stride=stride, bias=False), norm(width, policy))

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.skip(x)).relu()


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, stride: int, radix: int, policy: str):
        super().__init__()
        self.path = nn.Sequential(
            Conv2d(channels, width, 1, bias=False), norm(width, policy), nn.ReLU(),
            SplitAttention(width, width, radix=radix, norm_policy=policy),
            nn.AvgPool2d(3, stride, padding=1) if stride > 1 else nn.Identity(),
            Conv2d(width, 4 * width, 1, bias=False), norm(4 * width, policy),
        )  # fmt: skip
        self.skip = nn.Identity()
        if stride > 1 or channels != 4 * width:
            halved = nn.AvgPool2d(stride, stride, ceil_mode=True, count_include_pad=False)
            self.skip = nn.Sequential(
                halved if stride > 1 else nn.Identity(), Conv2d(channels, 4 * width, 1, bias=False),
                norm(4 * width, policy),
            )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return (self.path(x) + self.skip(x)).relu()


def _stem(name: str, shape: Sequence[int], kind: str, large, width: int, policy: str):
    """What comes before the first block: layers, their channels, and the size of their map."""
    if kind not in ("small", "large"):
        raise ValueError(f"{name}: stem is {kind!r}, expected 'small' or 'large'.")
    if len(shape) != 3:
        raise ValueError(f"{name}: inputs have shape {tuple(shape)}, expected images (channels, height, width).")
    channels, *size = shape
    if kind == "small":
        convs, halvings = [Conv2d(channels, width, 3, padding=1, bias=False)], 0
    else:
        convs, halvings = large(channels, width, policy), 2
    layers: list[nn.Module] = [*convs, norm(width, policy), nn.ReLU()]
    if halvings:
        layers.append(nn.MaxPool2d(3, 2, padding=1))
    return layers, width, [-(-s // 2**halvings) for s in size]


def _seven(channels: int, width: int, policy: str) -> list[nn.Module]:
    return [Conv2d(channels, width, 7, stride=2, padding=3, bias=False)]


def _three(channels: int, width: int, policy: str) -> list[nn.Module]:
    half = width // 2
    return [
        Conv2d(channels, half, 3, stride=2, padding=1, bias=False), norm(half, policy), nn.ReLU(),
        Conv2d(half, half, 3, padding=1, bias=False), norm(half, policy), nn.ReLU(),
        Conv2d(half, width, 3, padding=1, bias=False),
    ]  # fmt: skip


def _finished(layers: list[nn.Module], channels: int, size: list[int], features: str, out: int | None) -> Backbone:
    body = nn.Sequential(*layers, *last(features))
    return Backbone(body, channels, None, size) if features == "map" else with_head(body, channels, out)
