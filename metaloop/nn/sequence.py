"""Recurrence and attention, written out: safe under task batching and second derivatives."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

State = tuple[tuple[Tensor, Tensor], ...]  # (h, c) of each layer


class LSTM(nn.Module):
    """Layers of long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000):

        i, f, o = sigmoid(W_ifo [x, h]),   g = tanh(W_g [x, h])
        c' = f c + i g,                    h' = o tanh(c')

    Time is the first axis: `lstm(x [T, ..., input], state=None) -> (h [T, ..., hidden], state)`; `step` takes one x of
    [..., input]. The initial state is zero unless given. Forget gates start open, at sigmoid(1).
    """

    def __init__(self, input: int, hidden: int, layers: int = 1):
        super().__init__()
        self.hidden = hidden
        sizes = [input, *[hidden] * (layers - 1)]
        self.cells = nn.ModuleList(_Gates(size + hidden, hidden) for size in sizes)

    def start(self, x: Float[Tensor, "... input"]) -> State:
        """The zero state for inputs like x."""
        zero = x.new_zeros(*x.shape[:-1], self.hidden)
        return tuple((zero, zero) for _ in self.cells)

    def step(self, x: Float[Tensor, "... input"], state: State) -> tuple[Float[Tensor, "... hidden"], State]:
        after = []
        for gates, (h, c) in zip(self.cells, state, strict=True):
            ifo, g = gates(torch.cat((x, h), -1)).split((3 * self.hidden, self.hidden), -1)
            i, f, o = ifo.sigmoid().chunk(3, -1)
            c = f * c + i * g.tanh()
            x = o * c.tanh()
            after.append((x, c))
        return x, tuple(after)

    def forward(self, x: Float[Tensor, "time ... input"], state: State | None = None):
        state = self.start(x[0]) if state is None else state
        outputs = []
        for x_t in x:
            h, state = self.step(x_t, state)
            outputs.append(h)
        return torch.stack(outputs), state


class _Gates(nn.Linear):
    """The four gates of a layer in one matrix, drawn from U(-1/sqrt(hidden), 1/sqrt(hidden))."""

    def __init__(self, size: int, hidden: int):
        super().__init__(size, 4 * hidden)

    def reset_parameters(self) -> None:
        hidden = self.out_features // 4
        for p in (self.weight, self.bias):
            nn.init.uniform_(p, -1 / math.sqrt(hidden), 1 / math.sqrt(hidden))
        with torch.no_grad():
            self.bias[hidden : 2 * hidden] = 1.0


class Recurrent(nn.Module):
    """An LSTM with a linear output: `net(x [T, ..., input], state=None) -> (y [T, ..., output], state)`."""

    def __init__(self, input: int, hidden: int, output: int, layers: int = 1):
        super().__init__()
        self.lstm, self.head = LSTM(input, hidden, layers), nn.Linear(hidden, output)

    def forward(self, x: Float[Tensor, "time ... input"], state: State | None = None):
        h, state = self.lstm(x, state)
        return self.head(h), state


def attend(
    q: Float[Tensor, "... n d"],
    k: Float[Tensor, "... m d_k"],
    v: Float[Tensor, "... m e"],
    mask: Bool[Tensor, "*#masks m"] | None = None,
    *,
    score: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Float[Tensor, "... n e"]:
    """softmax(q k^T / sqrt(d)) v (Vaswani et al. 2017). mask: True where row n may look at m; each row needs one.
    score: (q, k) -> [..., n, m] in the product's place, such as an `Additive`."""
    scores = q @ k.mT / math.sqrt(q.shape[-1]) if score is None else score(q, k)
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


class KeyValue(nn.Module):
    """Key-value memory (Miller et al. 2016, arXiv:1606.03126): what the keys like q have as values, read in hops.

        p_i = softmax_i q_j . k_i,    o_j = sum_i p_i v_i,    q_{j+1} = R_j (q_j + o_j)       j = 1 .. hops

    `memory(q [..., n, d], k [..., m, d], v [..., m, e]) -> o [..., n, e]` of the last hop; with more than one, e = d.
    One hop with labels for values, one-hot, is Matching Networks' p(y | x): q and k are its embeddings, scaled as its
    metric says. R_j has no bias.
    """

    def __init__(self, dim: int, hops: int = 1):
        super().__init__()
        self.turn = nn.ModuleList(nn.Linear(dim, dim, bias=False) for _ in range(hops - 1))

    def forward(
        self, q: Float[Tensor, "... n d"], k: Float[Tensor, "... m d"], v: Float[Tensor, "... m e"]
    ) -> Float[Tensor, "... n e"]:
        o = (q @ k.mT).softmax(-1) @ v
        for turn in self.turn:
            q = turn(q + o)
            o = (q @ k.mT).softmax(-1) @ v
        return o
