"""Causal sequence parts of SNAIL (Mishra et al. 2018, arXiv:1707.03141): temporal convolutions and causal attention

    dense block        y_t = [x_t, tanh(f_t) sigmoid(g_t)],   (f_t, g_t) = W [x_{t-d}, x_t] + b
    TC block           dense blocks with d = 1, 2, 4, ... until y_t has seen x_1 .. x_t
    attention block    y_t = [x_t, sum over s <= t of a_ts v_s],   a_t = softmax_s (q_t . k_s / sqrt(keys))

Each part has two forms. `part(x [T, channels]) -> (y [T, out], memory)` takes a whole sequence; memory is what the part
must know of it to go on. `part(x [n, channels], memory) -> y [n, out]` is given n alternatives for the element T + 1,
and answers each as if it alone came next. x is zero before the sequence.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .sequence import attend


class DenseBlock(nn.Module):
    """A gated causal convolution of width 2, concatenated to its input: channels -> channels + filters."""

    def __init__(self, channels: int, filters: int, dilation: int):
        super().__init__()
        self.dilation, self.out = dilation, channels + filters
        self.conv = nn.Linear(2 * channels, 2 * filters)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Any:
        if memory is not None:
            return self._gated(memory.expand_as(x), x)
        padded = torch.cat([x.new_zeros(self.dilation, x.shape[-1]), x])  # padded[t] is x[t - dilation]
        return self._gated(padded[: len(x)], x), padded[len(x)]

    def _gated(self, before: Tensor, x: Tensor) -> Tensor:
        f, g = self.conv(torch.cat([before, x], -1)).chunk(2, -1)
        return torch.cat([x, f.tanh() * g.sigmoid()], -1)


class Twin(nn.Linear):
    """A layer of its own that starts as another one does."""

    def __init__(self, other: nn.Linear):
        self.other = (other,)  # a tuple, so that torch does not count it as a part
        super().__init__(other.in_features, other.out_features)

    def reset_parameters(self) -> None:
        with torch.no_grad():
            for ours, theirs in zip(self.parameters(), self.other[0].parameters(), strict=True):
                ours.copy_(theirs)


class AttentionBlock(nn.Module):
    """What causal attention reads, concatenated to its input: channels -> channels + values.

    Keys start as queries are, so that what is alike attends to each other from the first step. From unrelated starts a
    reader of many classes first has to find that out, and hardly does (docs/learners/snail.md).
    """

    def __init__(self, channels: int, keys: int, values: int):
        super().__init__()
        self.out = channels + values
        self.query = nn.Linear(channels, keys)
        self.key = Twin(self.query)
        self.value = nn.Linear(channels, values)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor] | None = None) -> Any:
        q, k, v = self.query(x), self.key(x), self.value(x)
        if memory is None:
            past = torch.ones(len(x), len(x), dtype=torch.bool, device=x.device).tril()
            return torch.cat([x, attend(q, k, v, past)], -1), (k, v)
        a, before_v = self._a(q, k, memory[0]), memory[1]
        return torch.cat([x, a[:, :-1] @ before_v + a[:, -1:] * v], -1)

    def attends(self, x: Tensor, memory: tuple[Tensor, Tensor]) -> Tensor:
        """a of each alternative for element T + 1, [n, T + 1]: over what is remembered, then itself."""
        return self._a(self.query(x), self.key(x), memory[0])

    def _a(self, q: Tensor, k: Tensor, before: Tensor) -> Tensor:
        scores = torch.cat([q @ before.mT, (q * k).sum(-1, keepdim=True)], -1) / math.sqrt(q.shape[-1])
        return scores.softmax(-1)


class Causal(nn.ModuleList):
    """Causal parts one after the other, and a causal part itself; memory holds that of each."""

    def __init__(self, parts: Sequence[nn.Module]):
        super().__init__(parts)
        self.out = parts[-1].out

    def forward(self, x: Tensor, memory: Sequence | None = None) -> Any:
        if memory is not None:
            for part, m in zip(self, memory, strict=True):
                x = part(x, m)
            return x
        kept = []
        for part in self:
            x, m = part(x)
            kept.append(m)
        return x, tuple(kept)


def tc_block(channels: int, filters: int, length: int) -> Causal:
    """A TC block for sequences of up to `length` elements: ceil(log2 length) dense blocks."""
    dense = []
    for i in range(max(1, (length - 1).bit_length())):
        dense.append(DenseBlock(channels, filters, 2**i))
        channels = dense[-1].out
    return Causal(dense)


class Reader(nn.Module):
    """SNAIL's network: attention blocks with a TC block between one and the next, and a linear head.

    length: of the longest sequence that the TC blocks reach back over. keys, values: sizes for each attention block,
    filters: of each dense block; the defaults are the paper's for few-shot images.
    """

    def __init__(
        self, channels: int, out: int, *, length: int, filters: int = 128,
        keys: Sequence[int] = (64, 256, 512), values: Sequence[int] = (32, 128, 256),
    ):  # fmt: skip
        super().__init__()
        parts = []
        for i, (k, v) in enumerate(zip(keys, values, strict=True)):
            if i > 0:
                parts.append(tc_block(channels, filters, length))
                channels = parts[-1].out
            parts.append(AttentionBlock(channels, k, v))
            channels = parts[-1].out
        self.body, self.head = Causal(parts), nn.Linear(channels, out)

    def forward(self, x: Tensor, memory: Any = None, attended: bool = False) -> Any:
        """attended: what the last attention block attends to instead, as `AttentionBlock.attends` has it."""
        if attended:
            *parts, last = self.body
            assert isinstance(last, AttentionBlock)
            for part, m in zip(parts, memory, strict=False):
                x = part(x, m)
            return last.attends(x, memory[-1])
        if memory is not None:
            return self.head(self.body(x, memory))
        h, memory = self.body(x)
        return self.head(h), memory
