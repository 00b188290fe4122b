"""Residual networks that can be turned around, and the densities that they make of a normal one (Behrmann et al. 2019,
arXiv:1811.00995; Chen et al. 2019, arXiv:1906.02735)

    y            = x + g(x),   Lip(g) <= c < 1:   x is the limit of x <- y - g(x), off by c^j |g| / (1-c) after j    (1)
    log p(x)     = log N(z; 0, I) + sum over blocks of log det(I + J),    J = dg/dx                                  (2)
    log det(I+J) = sum over k >= 1 of (-1)^(k+1) tr(J^k) / k,    tr A = E v'Av,   v of independent signs             (3)
    n terms of it are off by at most  -d (ln(1-c) + sum over k <= n of c^k / k)                                      (4)
    roulette     : the first m terms, then term k with weight 1[N >= k-m] / P(N >= k-m),  P(N >= j) = (1-p)^(j-1)    (5)
    g            = layers W x + b, each |W| <= c^(1/layers), and a(x) = x s(b x) / 1.1 between them, s the sigmoid   (6)

In few dimensions (2) is computed exactly, from J. (5) has no bias, and a finite variance for certain only if
c^2 <= 1 - p: it sums c^2k / (k^2 (1-p)^k).
"""

import math
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EXACT = 1e-7  # what the fixed point is off by, in proportion to |g| / (1-c)


class ResidualFlow(nn.Module):
    """A density of x [n, dim] for each code [n, inputs], exact in log p and in draws: p(x | code).

    Told codes and x side by side, [n, inputs + dim], it answers log p(x | code), [n, 1], in nats per example; told
    codes alone it draws x, [n, dim], with torch's own noise. `metaloop.nn.Density` makes a likelihood of that. Each
    block first moves and scales x, by the code, then adds g(x, code), which contracts by `contraction` at least in x
    (the code may do as it likes). Raises ValueError unless contraction is in (0, 1), sizes are at least 1, and
    points have `dim` numbers.
    """

    def __init__(self, inputs: int, dim: int, *, blocks: int = 4, hidden: int = 32, contraction: float = 0.9):
        super().__init__()
        if not 0 < contraction < 1:
            raise ValueError(f"ResidualFlow: contraction is {contraction}, expected a number between 0 and 1.")
        if min(inputs, dim, blocks, hidden) < 1:
            sizes = f"inputs {inputs}, dim {dim}, blocks {blocks}, hidden {hidden}"
            raise ValueError(f"ResidualFlow: {sizes}, expected at least 1 of each.")
        self.inputs, self.dim, self.steps = inputs, dim, math.ceil(math.log(EXACT) / math.log(contraction))
        self.place = nn.ModuleList(Still(inputs, 2 * dim) for _ in range(blocks))
        self.residual = nn.ModuleList(Contraction(inputs, dim, hidden, contraction) for _ in range(blocks))

    def forward(self, v: Tensor) -> Tensor:
        code, x = v[:, : self.inputs], v[:, self.inputs :]
        if x.shape[1] == 0:
            return self.inverse(torch.randn_like(code[:, :1].expand(-1, self.dim)), code)
        if x.shape[1] != self.dim:
            raise ValueError(f"ResidualFlow: told points of {x.shape[1]} numbers, expected dim {self.dim}.")
        z, change = self.into(x, code)
        normal = -(z.square().sum(-1) + self.dim * math.log(2 * math.pi)) / 2
        return (normal + change)[:, None]                                                                 # (2)

    def into(self, x: Tensor, code: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z [n, dim], and log |det dz/dx| [n]: exact, or estimated by `series` with those weights and one probe."""
        change = torch.zeros_like(x[:, 0])
        for place, g in zip(self.place, self.residual, strict=True):
            mean, scale = place(code).chunk(2, -1)
            x = (x - mean) * (-scale).exp()
            if weights is None:
                every = torch.eye(self.dim, dtype=x.dtype, device=x.device).expand(len(x), -1, -1)
                y, J = g(x, code, every)
                change = change + log_det(J)
            else:
                signs = torch.where(torch.rand_like(x) < 0.5, -1.0, 1.0).to(x)
                y = g(x, code, signs[..., None])[0]
                change = change + series(lambda v: g(x, code, v[..., None])[1][..., 0], signs, weights)  # noqa: B023
            x, change = x + y, change - scale.sum(-1)
        return x, change

    def inverse(self, z: Tensor, code: Tensor) -> Tensor:
        """x [n, dim] whose `into` is z: a fixed number of steps of (1), enough for the contraction."""
        for place, g in reversed([*zip(self.place, self.residual, strict=True)]):
            y, none = z, z[..., None][..., :0]
            for _ in range(self.steps):
                z = y - g(z, code, none)[0]                                                               # (1)
            mean, scale = place(code).chunk(2, -1)
            z = z * scale.exp() + mean
        return z


class Still(nn.Linear):
    """A layer that starts at zero, so that a flow starts near its normal distribution: from elsewhere it takes long."""

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


class Contraction(nn.Module):
    """g(x, code), three layers, Lipschitz in x: (x [n, d], code, T [n, d, k]) -> (g [n, d], J T [n, d, k])."""

    def __init__(self, inputs: int, dim: int, hidden: int, contraction: float):
        super().__init__()
        sizes = (dim, hidden, hidden, dim)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.code = nn.Linear(inputs, hidden, bias=False)
        self.sharpness = nn.Parameter(torch.full((len(self.layers) - 1, hidden), 0.5))
        self.each = contraction ** (1 / len(self.layers))

    def forward(self, x: Tensor, code: Tensor, T: Tensor) -> tuple[Tensor, Tensor]:
        for i, layer in enumerate(self.layers):
            W = layer.weight / (torch.linalg.matrix_norm(layer.weight, 2) / self.each).clamp_min(1)       # (6)
            x, T = x @ W.mT + layer.bias, W @ T
            x = x + self.code(code) if i == 0 else x
            if i < len(self.sharpness):
                x, slope = lip_swish(x, F.softplus(self.sharpness[i]))
                T = slope[..., None] * T
        return x, T


def lip_swish(x: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """x s(b x) / 1.1 and its slope, which is between -1 and 1, and not constant where x is positive."""
    s = (b * x).sigmoid()
    return x * s / 1.1, (s + b * x * s * (1 - s)) / 1.1


def log_det(J: Tensor) -> Tensor:
    """log |det(I + J)|, [..., d, d] -> [...], by elimination."""
    return torch.linalg.slogdet(torch.eye(J.shape[-1], dtype=J.dtype, device=J.device) + J).logabsdet


def series(product: Callable[[Tensor], Tensor], v: Tensor, weights: Tensor) -> Tensor:
    """sum over k of weights[k-1] (-1)^(k+1) v' J^k v / k, for probes v [..., d]: [...]; `product` is v -> J v (3).

    Its mean over v of independent signs is log det(I + J), if weights are ones without end; of the unit vectors, the
    sum. weights: ones, or `roulette`'s.
    """
    u, total = v, torch.zeros_like(v[..., 0])
    for k, weight in enumerate(weights, 1):
        u = product(u)
        total = total + (-1) ** (k + 1) * weight / k * (v * u).sum(-1)
    return total


def roulette(n: int, *, exact: int = 2, p: float = 0.5) -> Tensor:
    """The weights (5) of a series that goes on for n terms after the exact ones, where P(N = n) = p (1-p)^(n-1).

    >>> roulette(3)
    tensor([1., 1., 1., 2., 4.])
    """
    if n < 1 or exact < 0 or not 0 < p < 1:
        raise ValueError(f"roulette: n is {n}, exact {exact}, p {p}; expected n >= 1, exact >= 0, 0 < p < 1.")
    return torch.cat([torch.ones(exact), (1 - p) ** -torch.arange(float(n))])


def cut_off(dim: int, contraction: float, terms: int) -> float:
    """What a series of so many terms is off by at most, in nats (4). Raises ValueError unless contraction is in (0, 1).

    >>> round(cut_off(8, 0.9, 5), 1)
    3.8
    """
    if not 0 < contraction < 1:
        raise ValueError(f"cut_off: contraction is {contraction}, expected a number between 0 and 1.")
    told = sum(contraction**k / k for k in range(1, terms + 1))
    return -dim * (math.log1p(-contraction) + told)
