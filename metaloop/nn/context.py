"""Embeddings in context: the recurrent parts of Matching Networks (Vinyals et al. 2016, arXiv:1606.04080)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .sequence import LSTM


class SupportContext(nn.Module):
    """Each element of a sequence in the light of the others: g_i = z_i + forward_i + backward_i.

    forward and backward are the outputs of two LSTMs, of as many units as z has, that read z from either end.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.forwards, self.backwards = LSTM(dim, dim), LSTM(dim, dim)

    def forward(self, z: Float[Tensor, "m dim"]) -> Float[Tensor, "m dim"]:
        ahead, _ = self.forwards(z)
        back, _ = self.backwards(z.flip(0))
        return z + ahead + back.flip(0)


class QueryContext(nn.Module):
    """Each z in the light of a set g, read `steps` times by attention: from h_0 = z, c_0 = 0,

        r_{k-1}  = sum_i a_i g_i,   a = softmax_i h_{k-1} . g_i
        h, c_k   = LSTM(z, [h_{k-1}, r_{k-1}], c_{k-1})
        h_k      = h + z                                             k = 1 .. steps
    """

    def __init__(self, dim: int, steps: int):
        super().__init__()
        self.steps, self.lstm = steps, LSTM(2 * dim, dim)

    def forward(self, z: Float[Tensor, "n dim"], g: Float[Tensor, "m dim"]) -> Float[Tensor, "n dim"]:
        h, c = z, torch.zeros_like(z)
        for _ in range(self.steps):
            r = (h @ g.mT).softmax(-1) @ g
            out, ((_, c),) = self.lstm.step(torch.cat([z, r], -1), ((h, c),))
            h = out + z
        return h
