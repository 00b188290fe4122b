"""Convolutional encoder and decoder, mirror images of each other."""

from collections.abc import Sequence

from torch import Tensor, nn

from .norms import norm


def conv_encoder(
    shape: tuple[int, ...], out: int, *, widths: Sequence[int] = (64, 128, 256), depth: int = 3,
    norm_policy: str = "transductive",
) -> nn.Sequential:
    """Images [n, *shape] to features [n, out]: a stage for each width, then a linear layer; norm and ELU after each.

    A stage is `depth` convolutions of 3x3, the last with stride 2.
    """
    channels, *size = shape
    layers: list[nn.Module] = []
    for width in widths:
        for i in range(depth):
            stride = 2 if i == depth - 1 else 1
            layers += [nn.Conv2d(channels, width, 3, stride, 1), norm(width, norm_policy), nn.ELU()]
            channels = width
        size = [(s + 1) // 2 for s in size]
    layers += [nn.Flatten(), nn.Linear(channels * size[0] * size[1], out), norm(out, norm_policy), nn.ELU()]
    return nn.Sequential(*layers)


def conv_decoder(
    inputs: int, shape: tuple[int, ...], *, widths: Sequence[int] = (64, 128, 256), depth: int = 3,
    norm_policy: str = "group",
) -> nn.Sequential:
    """Codes [n, inputs] to images [n, *shape]: the stages of `conv_encoder` backwards, then a convolution of 1x1.

    A stage is depth - 1 convolutions of 3x3 and a transposed one that doubles the side (2x2, or 3x3 to an odd side).
    """
    sizes = [tuple(shape[1:])]
    for _ in widths:
        sizes.append(tuple((s + 1) // 2 for s in sizes[-1]))
    channels = widths[-1]
    layers: list[nn.Module] = [
        nn.Linear(inputs, channels * sizes[-1][0] * sizes[-1][1]), Shaped(channels, *sizes[-1])
    ]  # fmt: skip
    for width, size in zip(widths[::-1], sizes[-2::-1], strict=True):
        for i in range(depth):
            last = i == depth - 1
            layer = _doubling(channels, width, size) if last else nn.Conv2d(channels, width, 3, padding=1)
            layers += [layer, norm(width, norm_policy), nn.ELU()]
            channels = width
    return nn.Sequential(*layers, nn.Conv2d(channels, shape[0], 1))


class Shaped(nn.Module):
    """[n, ...] to [n, *shape]."""

    def __init__(self, *shape: int):
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), *self.shape)


class Nothing(nn.Module):
    """[n, k] to [n, 0]: posterior and prior of a Neural Statistician without latents z, whose p(x|c) is exact."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :0]


def _doubling(a: int, b: int, size: tuple[int, ...]) -> nn.ConvTranspose2d:
    """To images of that size, from those of half of it, rounded up."""
    kernel, padding = (tuple(f(s % 2) for s in size) for f in (lambda odd: 2 + odd, lambda odd: odd))
    return nn.ConvTranspose2d(a, b, kernel, 2, padding)
