"""Directions of embeddings, and the cosines between them, also where an embedding is zero and has none; and numbers in
double precision where a device has none."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

SHORTEST = 1e-12  # below it torch's own is no direction either, and its slope 1 / SHORTEST


def unit(z: Float[Tensor, "... dim"]) -> Float[Tensor, "... dim"]:
    """z / |z| along the last axis; zero, with derivatives of zero to any order, where z is zero.

    >>> from torch import tensor
    >>> unit(tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    none = _none(z)
    return torch.where(none, 0.0, F.normalize(torch.where(none, 1.0, z), dim=-1))


def length(z: Float[Tensor, "... dim"]) -> Float[Tensor, "... 1"]:
    """|z| along the last axis, which stays; with derivatives of zero to any order where z is zero."""
    none = _none(z)
    return torch.where(none, 0.0, torch.where(none, 1.0, z).norm(dim=-1, keepdim=True))


def cosines(a: Float[Tensor, "n dim"], b: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """The cosine of every row of a and every row of b; zero where one of them is zero."""
    return unit(a) @ unit(b).mT


def _none(z: Tensor) -> Tensor:
    return z.detach().abs().amax(-1, keepdim=True) <= SHORTEST


def wide(t: Tensor) -> Tensor:
    """t in float64; on a CPU where it is on Apple's GPU, which has none."""
    return (t.cpu() if t.device.type == "mps" else t).double()
