"""A small Transformer that translates, with words of many languages in one space."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .sequence import attend

PAD, START, END, UNKNOWN = range(4)  # tokens of no language
Read = tuple[Tensor, Tensor]  # of a source: h [n, S, dim], and which of its tokens are no padding [n, S]


class Attending(nn.Module):
    """O attend(Q x, K y, V y) in `heads` parts. Keys have no bias: it would add the same to all scores of a row."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q, self.out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.k, self.v = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim)

    def forward(self, x: Float[Tensor, "n t dim"], y: Float[Tensor, "n s dim"], mask: Tensor) -> Tensor:
        """mask: True where a row of x may look at a row of y, [n or 1, t or 1, s]."""
        parts = lambda z: z.reshape(*z.shape[:2], self.heads, -1).transpose(1, 2)
        q, k, v = parts(self.q(x)), parts(self.k(y)), parts(self.v(y))
        return self.out(attend(q, k, v, mask[:, None]).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """h' = h + attention(u(h)), for a decoder then h + attention from u(h) to what the encoder read, then
    h + mlp(u(h)); each u a layer norm of its own, before a part and not behind it (Xiong et al. 2020,
    arXiv:2002.04745)."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float, reads: bool):
        super().__init__()
        self.norm, self.itself = nn.LayerNorm(dim), Attending(dim, heads)
        self.norm_read, self.read = (nn.LayerNorm(dim), Attending(dim, heads)) if reads else (None, None)
        self.norm_mlp, self.dropout = nn.LayerNorm(dim), nn.Dropout(dropout)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim))

    def forward(self, h: Float[Tensor, "n t dim"], mask: Tensor, memory: Read | None = None) -> Tensor:
        u = self.norm(h)
        h = h + self.dropout(self.itself(u, u, mask))
        if self.read is not None and self.norm_read is not None and memory is not None:
            source, there = memory
            h = h + self.dropout(self.read(self.norm_read(h), source, there[:, None]))
        return h + self.dropout(self.mlp(self.norm_mlp(h)))


class Universal(nn.Module):
    """The universal lexical representation (Gu, Hassan, Devlin & Li 2018, arXiv:1802.05368): a word of any language
    is a mixture of universal words, by the likeness of fixed vectors, plus an offset of its own:

        e(w) = E[w] + sum over m of a_m W[m],    a = softmax_m(u(w)' (1 + A) v(m) / tau)

    keys: u [words, r], of all languages; universal: v [m, r]. A and E start at zero. The first four words
    (`PAD` and so on) are of no language, and have no mixture.
    """

    def __init__(self, keys: Float[Tensor, "words r"], universal: Float[Tensor, "m r"], dim: int, tau: float = 0.05):
        super().__init__()
        self.tau = tau
        self.register_buffer("keys", keys.clone())
        self.register_buffer("like", universal.clone())
        self.universal = nn.Parameter(torch.empty(len(universal), dim))
        self.offset = nn.Parameter(torch.empty(len(keys), dim))
        self.turn = nn.Parameter(torch.empty(keys.shape[1], keys.shape[1]))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.universal, std=self.universal.shape[1] ** -0.5)
        nn.init.zeros_(self.offset)
        nn.init.zeros_(self.turn)

    def forward(self, w: Int[Tensor, "n t"]) -> Float[Tensor, "n t dim"]:
        u = F.embedding(w, self.keys)  # type: ignore[arg-type]
        a = ((u + u @ self.turn) @ self.like.mT / self.tau).softmax(-1)  # type: ignore[operator]
        return F.embedding(w, self.offset) + (w > UNKNOWN)[..., None] * (a @ self.universal)


class Transformer(nn.Module):
    """An encoder and a decoder (Vaswani et al. 2017, arXiv:1706.03762).

        h = encoder(sqrt(dim) e(s) + position),   scores of t_{i+1} = O decoder(sqrt(dim) e(t_1 .. t_i) + position, h)

    `net(s [n, S]) -> memory` reads a source; `net(t [n, T], memory) -> scores [n, T, target]` of what comes after each
    token of a prefix, which begins with `START`. Tokens are int64, and `PAD` is none. source, target: how many words
    there are. tied: O is the target's embedding, and no matrix of its own. keys: (u, v) of `Universal`, in the place of
    an embedding of the source. Raises ValueError unless dim is even, and `heads`, at least 1, divide it.
    """

    def __init__(
        self, source: int, target: int, *, dim: int = 128, layers: int = 2, heads: int = 4, hidden: int = 256,
        dropout: float = 0.1, tied: bool = True, keys: tuple[Tensor, Tensor] | None = None,
    ):  # fmt: skip
        super().__init__()
        if heads < 1 or dim % 2 or dim % heads:
            wanted = f"an even number that {heads} heads divide, and at least one head"
            raise ValueError(f"Transformer: dim={dim}, expected {wanted}.")
        if keys is not None and len(keys[0]) != source:
            raise ValueError(f"Transformer: {len(keys[0])} keys for a source of {source} words. Give one each.")
        self.dim, self.tied = dim, tied
        self.source = _Words(source, dim) if keys is None else Universal(*keys, dim)
        self.target = _Words(target, dim)
        make = lambda reads: nn.ModuleList(Layer(dim, heads, hidden, dropout, reads) for _ in range(layers))
        self.encoder, self.decoder = make(False), make(True)
        self.norm_encoder, self.norm_decoder = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.out = None if tied else nn.Linear(dim, target, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Int[Tensor, "n t"], memory: Read | None = None):
        if memory is None:
            there = x != PAD
            h = self._placed(self.source(x))
            for layer in self.encoder:
                h = layer(h, there[:, None])
            return self.norm_encoder(h), there
        h, past = self._placed(self.target(x)), torch.ones(x.shape[1:] * 2, dtype=torch.bool, device=x.device).tril()
        for layer in self.decoder:
            h = layer(h, past[None], memory)
        h = self.norm_decoder(h)
        return h @ self.target.weight.mT if self.out is None else self.out(h)

    def _placed(self, e: Float[Tensor, "n t dim"]) -> Float[Tensor, "n t dim"]:
        return self.dropout(math.sqrt(self.dim) * e + positions(e))


class _Words(nn.Embedding):
    """Vectors of length about 1 at the start."""

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.embedding_dim**-0.5)


def positions(e: Float[Tensor, "n t dim"]) -> Float[Tensor, "t dim"]:
    """sin(t / 10000^(2 i / dim)) and cos of the same, i = 0 .. dim/2 - 1, beside each other."""
    t, i = (torch.arange(n, device=e.device, dtype=e.dtype) for n in (e.shape[1], e.shape[2] // 2))
    angle = t[:, None] * torch.exp(-math.log(10_000.0) * 2 * i / e.shape[2])
    return torch.cat([angle.sin(), angle.cos()], -1)


def spelled(logits: Float[Tensor, "n t words"], y: Int[Tensor, "n t"], smoothing: float = 0.0) -> Float[Tensor, "n t"]:
    """-sum over words w of q(w) log softmax(logits)_w for each token, zero for `PAD`. q: 1 - smoothing on y, and
    smoothing spread over all words (Szegedy et al. 2016, arXiv:1512.00567)."""
    log_p = logits.log_softmax(-1)
    right = log_p.gather(-1, y[..., None])[..., 0]
    return torch.where(y == PAD, 0.0, -(1 - smoothing) * right - smoothing * log_p.mean(-1))
