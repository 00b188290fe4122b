"""Infinitely wide networks with random weights, as kernels
Lee et al., ICLR 2018, arXiv:1711.00165; Novak et al., ICLR 2019, arXiv:1810.05148

K(x, x') is the covariance of a network's answers to x and x' over its weights, which are independent, normal, of mean
zero and variance w over the number of inputs of a unit; biases have variance b. In the limit of many units or channels
the answers are a Gaussian process. For pictures K is between positions p of x and p' of x' too:

    K[p, p']    = <x_p, x'_p'> / channels                                                                     (1)
    K[p, p']   <- b + w mean over the window's d of K[p + d, p' + d], zero outside        convolution       (2)
    K          <- (r + (pi - atan2(r, K)) K) / 2 pi,   r = sqrt(k k' - K^2)                ReLU               (3)
                  k = K[p, p](x, x) and k' = K[p', p'](x', x'), which become k / 2 and k' / 2
    K           = mean over p of K[p, p], or pooled: over p and p' of K[p, p'];  then b + w K       readout   (4)

Unpooled, (4) asks for p = p' alone, and (2) gives it them from p = p' alone: whether two positions share weights is in
no equation, so a convolution without pooling is a locally connected network.
"""

from collections.abc import Callable
from math import pi
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..core import Params


class Kernel(NamedTuple):
    """between: (params, x [n, ...], z [m, ...]) -> K(x, z) [n, m]. alone: (params, x [n, ...]) -> K(x_i, x_i) [n]."""

    between: Callable[[Params, Tensor, Tensor], Tensor]
    alone: Callable[[Params, Tensor], Tensor]


def infinite(kind: str = "pooled", *, depth: int = 2, window: int = 3) -> Kernel:
    """The kernel of an infinitely wide ReLU network of `depth` hidden layers; params holds w and b, 0-dimensional.

    kind: "dense", fully connected, of any x; or of pictures [n, channels, height, width] "local", convolutional or
    locally connected, read out by a layer on all positions, or "pooled", read out from the mean over positions.
    window: the convolution's, odd. A pooled kernel of n and m pictures of P positions takes n m P^2 numbers.
    b must be above 0: where a picture is empty K would be 0, and its angle 0/0.
    Raises ValueError on another kind, no layer, or a window that is not odd.
    """
    if kind not in ("dense", "local", "pooled"):
        raise ValueError(f"infinite: kind is {kind!r}, expected 'dense', 'local' or 'pooled'.")
    if depth < 1 or window < 1 or window % 2 == 0:
        raise ValueError(f"infinite: depth is {depth}, window {window}, expected a layer at least, and an odd window.")
    size, pooled = (1, False) if kind == "dense" else (window, kind == "pooled")

    def pictures(x: Tensor) -> Tensor:
        if kind != "dense" and x.ndim != 4:
            raise ValueError(f"infinite: kind {kind!r} has inputs {tuple(x.shape)}, expected pictures [n, c, h, w].")
        return x.flatten(1)[..., None, None] if kind == "dense" else x

    def positions(K: Tensor, k: Tensor) -> Tensor:
        return k[..., None, None].expand_as(K) if pooled else k

    def answer(params: Params, K: Tensor, x: Tensor, z: Tensor) -> Tensor:
        """From (1), between pairs of pictures or of each with itself; x, z broadcast against each other."""
        w, b = params["w"], params["b"]
        k, k_ = x.square().mean(-3), z.square().mean(-3)
        for _ in range(depth):
            K = b + w * (_both if pooled else _mean)(K, size)                                                 # (2)
            k, k_ = b + w * _mean(k, size), b + w * _mean(k_, size)
            K = relu(K, k[..., None, None] if pooled else k, k_[..., None, None, :, :] if pooled else k_)   # (3)
            k, k_ = k / 2, k_ / 2
        return b + w * K.flatten(-4 if pooled else -2).mean(-1)                                              # (4)

    def between(params: Params, x: Tensor, z: Tensor) -> Float[Tensor, "n m"]:
        x, z = pictures(x), pictures(z)
        if not pooled:
            return answer(params, torch.einsum("nchw,mchw->nmhw", x, z) / x.shape[1], x[:, None], z)              # (1)
        rows = ((torch.einsum("chw,mcij->mhwij", x_i, z) / x.shape[1], x_i[None]) for x_i in x)  # each fits a cache
        return torch.stack([answer(params, K, x_i, z) for K, x_i in rows])

    def alone(params: Params, x: Tensor) -> Float[Tensor, " n"]:
        x = pictures(x)
        K = torch.einsum("nchw,ncij->nhwij" if pooled else "nchw,nchw->nhw", x, x) / x.shape[1]
        return answer(params, K, x, x)

    return Kernel(between, alone)


def relu(K: Tensor, k: Tensor, k_: Tensor) -> Tensor:
    """(3). k and k_ are above 0. On the diagonal, where r has no slope, it counts as a constant."""
    both = k * k_
    r = torch.maximum(both - K.square(), 1e-14 * both.detach()).sqrt()
    return (r + (pi - torch.atan2(r, K)) * K) / (2 * pi)


def _mean(k: Float[Tensor, "*batch h w"], size: int) -> Tensor:
    """The mean over each position's window, zero outside."""
    return F.avg_pool2d(k.flatten(0, -3)[:, None], size, 1, size // 2).view(k.shape)


def _both(K: Float[Tensor, "*batch h w i j"], size: int) -> Tensor:
    """(2)'s mean: both positions move together."""
    r = size // 2
    for axis, pad in ((-4, (0, 0, r, r, 0, 0, r, r)), (-3, (r, r, 0, 0, r, r))):
        wide, n = F.pad(K, pad), K.shape[axis]
        K = sum(wide.narrow(axis, d, n).narrow(axis + 2, d, n) for d in range(size)) / size  # type: ignore[assignment]
    return K
