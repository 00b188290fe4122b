"""Additive attention, and what is made of it: networks that point at their inputs, or that look back at them."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .sequence import LSTM, attend


class Additive(nn.Module):
    """How well q_i and k_j go together: u_ij = w . tanh(W_q q_i + W_k k_j + b) (Bahdanau et al. 2015, arXiv:1409.0473).

    `score(q [..., n, query], k [..., m, key]) -> [..., n, m]`; `attend(q, k, v, score=score)` reads by it.
    """

    def __init__(self, query: int, key: int, hidden: int):
        super().__init__()
        self.query, self.key = nn.Linear(query, hidden, bias=False), nn.Linear(key, hidden)
        self.weigh = nn.Linear(hidden, 1, bias=False)

    def forward(self, q: Float[Tensor, "... n query"], k: Float[Tensor, "... m key"]) -> Float[Tensor, "... n m"]:
        return self.weigh((self.query(q)[..., :, None, :] + self.key(k)[..., None, :, :]).tanh())[..., 0]


class Pointer(nn.Module):
    """Pointer network (Vinyals, Fortunato & Jaitly 2015, arXiv:1506.03134): answers a sequence by places in it.

        e_1 .. e_m = LSTM(x_1 .. x_m),   d_t = LSTM(x at the place chosen at t-1),   p_t = softmax_j u(d_t, e_j)

    u is `Additive`. `net(x [m, ..., input], chosen [T, ...]) -> scores [T, ..., m]` is told all choices, as in
    training; `net.point(x, steps) -> [steps, ...]` makes its own, the likeliest place each time. ends: there is one
    place more, m, which says that the answer is over. once: no place is chosen twice (but for that one).
    """

    def __init__(self, input: int, hidden: int, *, ends: bool = False, once: bool = False):
        super().__init__()
        self.encoder, self.decoder = LSTM(input, hidden), LSTM(input, hidden)
        self.score = Additive(hidden, hidden, hidden)
        self.first = nn.Parameter(torch.zeros(input))
        self.end = nn.Parameter(torch.zeros(hidden)) if ends else None
        self.once = once

    def read(self, x: Float[Tensor, "m ... input"]):
        """What can be pointed at, [..., m, hidden], the state that answering starts from, and the first input."""
        e, state = self.encoder(x)
        if self.end is not None:
            e = torch.cat([e, self.end.expand_as(e[:1])])
        return e.movedim(0, -2), state, self.first.expand_as(x[0])

    def forward(self, x: Float[Tensor, "m ... input"], chosen: Int[Tensor, "T ..."]) -> Float[Tensor, "T ... places"]:
        places, state, first = self.read(x)
        d, _ = self.decoder(torch.cat([first[None], _at(x, chosen[:-1])]), state)
        u = self.score(d.movedim(0, -2), places).movedim(-2, 0)
        now = self._same(chosen, u)
        return u.masked_fill((now.cumsum(0) - now.long()) > 0, -torch.inf)

    def point(self, x: Float[Tensor, "m ... input"], steps: int) -> Int[Tensor, "steps ..."]:
        places, state, now = self.read(x)
        chosen, taken = [], torch.zeros(places.shape[:-1], dtype=torch.bool, device=x.device)
        for _ in range(steps):
            d, state = self.decoder.step(now, state)
            u = self.score(d[..., None, :], places)[..., 0, :].masked_fill(taken, -torch.inf)
            chosen.append(u.argmax(-1))
            taken = taken | self._same(chosen[-1], u)
            now = _at(x, chosen[-1][None])[0]
        return torch.stack(chosen)

    def _same(self, chosen: Int[Tensor, "..."], u: Float[Tensor, "... places"]) -> Bool[Tensor, "... places"]:
        """Where a choice must not be made again."""
        places = torch.arange(u.shape[-1], device=u.device)
        there = chosen[..., None] == places
        return there & (places < u.shape[-1] - (self.end is not None)) & self.once


def _at(x: Float[Tensor, "m ... input"], places: Int[Tensor, "T ..."]) -> Float[Tensor, "T ... input"]:
    """x at these places; what comes after the end does not matter."""
    places = places.clamp_max(len(x) - 1)[..., None]
    return x.gather(0, places.expand(*places.shape[:-1], x.shape[-1]))


class Seq2Seq(nn.Module):
    """One sequence of symbols from another (Sutskever, Vinyals & Le 2014, arXiv:1409.3215): an LSTM reads the first,
    and its last state starts a second one, which is given each symbol of the answer to say the next.

    attention: an answer's symbol is made of the state d_t and of what `Additive` attention from d_t finds in the states
    of reading; without it all is in one state. `net(x [S, ...], y [T, ...]) -> scores [T, ..., symbols]` is told the
    answer, as in training; `net.answer(x, steps) -> [steps, ...]` says the likeliest symbol each time.
    """

    def __init__(self, symbols: int, hidden: int, *, attention: bool = True):
        super().__init__()
        self.start = symbols  # the symbol before an answer
        self.symbols = nn.Embedding(symbols + 1, hidden)
        self.encoder, self.decoder = LSTM(hidden, hidden), LSTM(hidden, hidden)
        self.score = Additive(hidden, hidden, hidden) if attention else None
        self.head = nn.Linear(2 * hidden if attention else hidden, symbols)

    def forward(self, x: Int[Tensor, "S ..."], y: Int[Tensor, "T ..."]) -> Float[Tensor, "T ... symbols"]:
        e, state = self.encoder(self.symbols(x))
        before = torch.cat([torch.full_like(y[:1], self.start), y[:-1]])
        d, _ = self.decoder(self.symbols(before), state)
        return self.head(self._looked(d, e))

    def answer(self, x: Int[Tensor, "S ..."], steps: int) -> Int[Tensor, "steps ..."]:
        e, state = self.encoder(self.symbols(x))
        now, said = torch.full_like(x[0], self.start), []
        for _ in range(steps):
            d, state = self.decoder.step(self.symbols(now), state)
            now = self.head(self._looked(d[None], e))[0].argmax(-1)
            said.append(now)
        return torch.stack(said)

    def _looked(self, d: Float[Tensor, "T ... hidden"], e: Float[Tensor, "S ... hidden"]) -> Tensor:
        if self.score is None:
            return d
        keys = e.movedim(0, -2)
        found = attend(d.movedim(0, -2), keys, keys, score=self.score)
        return torch.cat([d, found.movedim(-2, 0)], -1)
