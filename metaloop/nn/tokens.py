"""Transformers that give features of a sequence, or of a picture in patches (Vaswani et al. 2017, arXiv:1706.03762).

Each is a `Backbone`. Attention is written out (`attend`): torch's fused one has no second derivative for four axes.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .backbones import Backbone, check_features, noise, with_head
from .norms import norm
from .sequence import attend


def transformer(
    shape: tuple[int, ...],
    *,
    out: int | None = None,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    expand: int = 4,
    norm_policy: str = "layer",
    features: str = "mean",
    dropout: float = 0.0,
) -> Backbone:
    """A Transformer that reads sequences [n, length, channels], shape = (length, channels): a linear map to `dim`
    numbers, learned places added, `depth` layers (`EncoderLayer`), a norm.

    out: size of the linear head, or None for the features. features: the "mean" over positions, or the "class": what a
    learned token ends as that is put before the sequence. norm_policy: as for `TokenNorm`; "layer" is the paper's, and
    the last norm's under "instance" too: over positions, the mean of what that normalises is the same for every input.
    dropout: of the embedded sequence and of what each part of a layer adds, in meta-training.
    Raises ValueError on a shape that is none, heads that do not divide dim, unknown features, dropout not in [0, 1).
    """
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"transformer: inputs have shape {tuple(shape)}, expected sequences (length, channels).")
    length, channels = shape
    check_features("transformer", features, ("mean", "class"), out)
    enter = nn.Linear(channels, dim)
    return _finished("transformer", enter, [length], dim, depth, heads, expand, norm_policy, features, dropout, out)


def vit(
    shape: tuple[int, ...] = (3, 84, 84),
    *,
    out: int | None = None,
    patch: int = 12,
    dim: int = 192,
    depth: int = 6,
    heads: int = 3,
    expand: int = 4,
    norm_policy: str = "layer",
    features: str = "mean",
    dropout: float = 0.0,
) -> Backbone:
    """Vision Transformer (Dosovitskiy et al. 2021, arXiv:2010.11929): a Transformer whose sequence is the picture's
    patches, `patch` pixels wide, row by row.

    shape: (channels, height, width) of an input. features: the "mean" over patches, the "class" token's (the paper's),
    or the "map" [n, dim, height / patch, width / patch], which has no head. Other arguments as in `transformer`;
    ViT-B/16 is vit((3, 224, 224), out=1000, patch=16, dim=768, depth=12, heads=12, features="class").
    Raises ValueError on a shape that is none or that patches do not tile, and as `transformer`.
    """
    if len(shape) != 3:
        raise ValueError(f"vit: inputs have shape {tuple(shape)}, expected images (channels, height, width).")
    channels, *size = shape
    if patch < 1 or any(s % patch or s < 1 for s in size):
        raise ValueError(f"vit: patches of {patch}x{patch} do not tile inputs of {size[0]}x{size[1]}. Take a divisor.")
    check_features("vit", features, ("mean", "class", "map"), out)
    grid, cut = [s // patch for s in size], _Patches(channels, dim, patch)
    return _finished("vit", cut, grid, dim, depth, heads, expand, norm_policy, features, dropout, out)


class EncoderLayer(nn.Module):
    """One layer, in which every position looks at every other one, u and u' being norms before each part:

        h'  = h + O attend(Q u(h), K u(h), V u(h))          in `heads` parts
        h'' = h' + mlp(u'(h')),    mlp = linear, GELU, linear, `expand` dim wide

    [n, length, dim] -> [n, length, dim]. dropout: of what each of the two adds, in meta-training.
    """

    def __init__(self, dim: int, heads: int, *, expand: int = 4, norm_policy: str = "layer", dropout: float = 0.0):
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"EncoderLayer: {heads} heads do not divide dim={dim}.")
        self.heads = heads
        self.norm, self.norm_after = TokenNorm(dim, norm_policy), TokenNorm(dim, norm_policy)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, expand * dim), nn.GELU(), nn.Linear(expand * dim, dim))
        self.noise = noise("EncoderLayer", dropout)

    def forward(self, h: Float[Tensor, "n length dim"]) -> Float[Tensor, "n length dim"]:
        parts = self.qkv(self.norm(h)).reshape(*h.shape[:2], 3, self.heads, -1)  # [n, length, 3, heads, dim / heads]
        found = attend(*parts.movedim(1, 3).unbind(1))  # [n, heads, length, dim / heads]
        h = h + self.noise(self.out(found.movedim(1, 2).flatten(2)))
        return h + self.noise(self.mlp(self.norm_after(h)))


class TokenNorm(nn.Module):
    """The norm of a policy, of tokens [n, length, dim], with a scale and a shift for each of `dim` channels.

    "layer" and "group" take the statistics of each token by itself, "instance" those of each channel over a sequence's
    tokens, the others those of each channel over all tokens of all examples.
    """

    def __init__(self, dim: int, policy: str = "layer"):
        super().__init__()
        self.norm, self.each = norm(dim, policy), policy != "instance"

    def forward(self, h: Float[Tensor, "n length dim"]) -> Float[Tensor, "n length dim"]:
        if self.each:
            return self.norm(h.flatten(0, 1)).view_as(h)
        return self.norm(h.mT).mT


class _Places(nn.Module):
    """A learned vector added for each place, after a token for the class is put before them if there is one."""

    def __init__(self, length: int, dim: int, token: bool, noise: nn.Module):
        super().__init__()
        self.noise = noise
        self.token = nn.Parameter(torch.empty(dim)) if token else None
        self.at = nn.Parameter(torch.empty(length + token, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for p in self.parameters():
            nn.init.normal_(p, std=0.02)

    def forward(self, h: Float[Tensor, "n length dim"]) -> Float[Tensor, "n more dim"]:
        if self.token is not None:
            h = torch.cat([self.token.expand(len(h), 1, -1), h], 1)
        return self.noise(h + self.at)


class _Patches(nn.Linear):
    """Each patch of [n, channels, height, width], row by row, by one linear map: [n, patches, dim]."""

    def __init__(self, channels: int, dim: int, patch: int):
        super().__init__(channels * patch * patch, dim)
        self.patch = patch

    def forward(self, x: Float[Tensor, "n channels height width"]) -> Float[Tensor, "n patches dim"]:
        n, channels, height, width = x.shape
        p, rows, columns = self.patch, height // self.patch, width // self.patch
        cut = x.reshape(n, channels, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        return super().forward(cut.reshape(n, rows * columns, -1))


class _Read(nn.Module):
    """The features of tokens: their mean, the first one, or the map that they are of."""

    def __init__(self, features: str, grid: Sequence[int]):
        super().__init__()
        self.features, self.grid = features, tuple(grid)

    def forward(self, h: Float[Tensor, "n length dim"]) -> Tensor:
        if self.features == "map":
            return h.mT.reshape(len(h), -1, *self.grid)
        return h[:, 0] if self.features == "class" else h.mean(1)


def _finished(
    name: str, enter: nn.Module, grid: Sequence[int], dim: int, depth: int, heads: int, expand: int, policy: str,
    features: str, dropout: float, out: int | None,
) -> Backbone:  # fmt: skip
    if depth < 1 or dim < 1 or heads < 1 or dim % heads:
        raise ValueError(
            f"{name}: depth={depth}, dim={dim}, heads={heads}, expected at least 1, and heads to divide dim."
        )
    made = [EncoderLayer(dim, heads, expand=expand, norm_policy=policy, dropout=dropout) for _ in range(depth)]
    policy = "layer" if policy == "instance" else policy  # else the mean over positions would be the shift alone
    places = _Places(math.prod(grid), dim, features == "class", noise(name, dropout))
    body = nn.Sequential(enter, places, *made, TokenNorm(dim, policy), _Read(features, grid))
    return Backbone(body, dim, None, grid) if features == "map" else with_head(body, dim, out)
