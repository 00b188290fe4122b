"""The relation module of Sung et al. 2018 (arXiv:1711.06025): a network that scores pairs of feature maps."""

from collections import OrderedDict

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .backbones import Conv2d
from .fused import Block
from .norms import BatchNorm, norm


class Relation(nn.Module):
    """g(c, q): how much each query's map resembles each class's, [n, ways]; logits, the sigmoid is left to the user.

    A pair is one map above the other, 2 * channels of them. Two blocks of 3x3 convolution, norm, ReLU and 2x2
    max-pooling, then two linear layers with a ReLU between, of `hidden` numbers and of one. shape: (channels, height,
    width) of a map.

    No pair is made before the first convolution, which is linear: its outputs are sums of a class's half and a query's,

        W [c_k; q_i] + b = (W_c c_k + b) + W_q q_i

    with W_c, W_q the first and the last of W's input channels. A batch norm of all sums a_k + b_i needs none of them:
    at a position the mean is mean_k a + mean_i b, the variance var_k a + var_i b.

    The linear layers start as the authors' do, weights from N(0, 0.01^2) and biases one. Raises ValueError if the map
    vanishes in two halvings, or for maps of another shape.
    """

    def __init__(
        self, shape: tuple[int, ...], *, width: int = 64, hidden: int = 8, norm_policy: str = "transductive"
    ):  # fmt: skip
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 4:
            raise ValueError(f"Relation: maps are {tuple(shape)}, expected (channels, height, width) from 4x4 on.")
        self.shape = tuple(shape)
        bias = norm_policy in ("group", "layer")
        self.conv = Conv2d(2 * shape[0], width, 3, padding=1, bias=bias)
        self.norm = norm(width, norm_policy)
        self.block = Block(OrderedDict(
            conv=Conv2d(width, width, 3, padding=1, bias=bias), norm=norm(width, norm_policy), relu=nn.ReLU(),
            pool=nn.MaxPool2d(2),
        ))  # fmt: skip
        left = width * (shape[1] // 4) * (shape[2] // 4)
        self.score = nn.Sequential(nn.Flatten(), _Linear(left, hidden), nn.ReLU(), _Linear(hidden, 1))

    def forward(self, c: Float[Tensor, "ways _ _ _"], q: Float[Tensor, "n _ _ _"]) -> Float[Tensor, "n ways"]:
        if self.shape != c.shape[1:] or self.shape != q.shape[1:]:
            given = f"{tuple(c.shape[1:])} and {tuple(q.shape[1:])}"
            raise ValueError(f"Relation: maps are {given}, expected {self.shape}. Give it the embedding's `shape`.")
        of_c, of_q = self.conv.weight.chunk(2, 1)
        a, b = F.conv2d(c, of_c, self.conv.bias, padding=1), F.conv2d(q, of_q, padding=1)
        if isinstance(self.norm, BatchNorm):
            scale, shift = (t[:, None, None] for t in self.norm.affine(lambda: _moments_of_sums(a, b)))
            pairs = _sums(a * scale + shift, b * scale)
        else:
            pairs = self.norm(_sums(a, b))
        return self.score(self.block(F.max_pool2d(pairs, 2).relu())).view(q.shape[0], c.shape[0])


class _Linear(nn.Linear):
    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=0.01)
        nn.init.ones_(self.bias)


def _sums(a: Tensor, b: Tensor) -> Tensor:
    """a_k + b_i, query by query: [n * ways, ...]."""
    return (b[:, None] + a).flatten(0, 1)


def _moments_of_sums(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The mean and the biased variance of each channel over all a_k + b_i and all positions."""
    mean = a.mean(0) + b.mean(0)
    var = a.var(0, correction=0) + b.var(0, correction=0)
    return mean.mean((1, 2)), var.mean((1, 2)) + mean.var((1, 2), correction=0)
