"""Examples imagined from others: the network G of Wang et al. 2018 (arXiv:1801.05401)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Hallucinator(nn.Sequential):
    """Features and noise, side by side, to features of the same class: [n, dim + noise] -> [n, dim].

    Three layers of ReLU, the last one too, which start as the identity: then G(x, z) = x for every z, where no x is
    negative, as features behind a ReLU are.
    """

    def __init__(self, dim: int, noise: int, *, layers: int = 3):
        sizes = (dim + noise, *[dim] * layers)
        each = [nn.Sequential(Through(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
        super().__init__(*each)


class Through(nn.Linear):
    """A linear layer that starts by handing on the first of its inputs: y = (I + W) x + b, from W = 0 and b = 0."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x[..., : self.out_features] + F.linear(x, self.weight, self.bias)


class Scale(nn.Module):
    """z -> exp(t) z, from t = 0. Prototypes on it decide alike whatever t is: how sure they are is its matter, and need
    not be G's."""

    def __init__(self):
        super().__init__()
        self.t = nn.Parameter(torch.zeros(()))

    def forward(self, z: Tensor) -> Tensor:
        return self.t.exp() * z


def beside(x: Tensor, z: Tensor) -> Tensor:
    """Each x with each of its z: x [n, dim], z [n, m, noise] -> [n, m, dim + noise]."""
    return torch.cat([x[:, None].expand(*z.shape[:-1], -1), z], -1)
