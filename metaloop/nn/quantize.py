"""Pictures as two grids of symbols, and densities of these: VQ-VAE-2 (Razavi, van den Oord & Vinyals 2019,
arXiv:1906.00446)

    h_b = E_b(x),  h_t = E_t(h_b);   e_t = Q_t(h_t),  e_b = Q_b([h_b, D_t(e_t)]);   x^ = D([D_t(e_t), e_b])        (1)
    Q(h): k = argmin_k |h - c_k|^2,   e = h + stopgrad(c_k - h)                                                    (2)
    loss  = (|x - x^|^2 + 1/2 |x - D([D_t(e_t), 0])|^2) / var x
            + 1/4 (|stopgrad(h) - c_k|^2 + beta |h - stopgrad(c_k)|^2 + 1/2 |c - stopgrad(h nearest to c)|^2)      (3)
            each a mean over all numbers; the last over all symbols, of both levels
    p(k | code) = prod p(t_i | t_<i, code) prod p(b_j | b_<j, t, code),   attention in the first                   (4)
    perplexity  = exp(-sum q_k ln q_k) <= K,   q_k the share of places that have symbol k                          (5)

The codebooks c are in theta, and (3) moves them: nothing is counted along the way. Its last term fetches symbols that
nothing is near to, and the picture drawn from the top alone gives the top something to say: neither is the paper's,
both are against a collapse onto a few symbols.
"""

import torch
from torch import Tensor, nn

from .autoregressive import Causal
from .backbones import Conv2d


class Codebook(nn.Module):
    """K symbols, vectors of `dim` numbers each: h [n, dim, height, width] -> e and k [n, height, width] of (2).

    Give it numbers of mean 0 and variance 1, as its vectors start: then few of them are far from all h, and lost.
    """

    def __init__(self, symbols: int, dim: int):
        super().__init__()
        self.vectors = nn.Parameter(torch.empty(symbols, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.vectors)

    def forward(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """e, k, and the last three terms of (3) without their weights, [3]."""
        places = h.movedim(1, -1).flatten(0, -2)
        far = places.square().sum(1, keepdim=True) - 2 * places @ self.vectors.mT + self.vectors.square().sum(1)
        k = far.argmin(1).view(len(h), *h.shape[2:])
        c, near = self.of(k), places.detach()[far.argmin(0)]
        pairs = ((h.detach(), c), (h, c.detach()), (self.vectors, near))
        return h + (c - h).detach(), k, torch.stack([(a - b).square().mean() for a, b in pairs])

    def of(self, k: Tensor) -> Tensor:
        """The vectors of symbols k [n, height, width]: [n, dim, height, width]."""
        return (hot(k, self.vectors) @ self.vectors).movedim(-1, 1)


class TwoLevels(nn.Module):
    """Pictures [n, *shape] as symbols on two grids, the bottom of a fourth of their side, the top of an eighth.

    x [n, *shape] -> (x^ [n, *shape], the loss (3) of all). symbols: K of each grid; dim: of their vectors; beta: (3)'s.
    Raises ValueError unless height and width are 8 at least, there are two symbols, and dim is 3 or more: of one number
    or two, brought to mean 0 and variance 1, at most a sign is left.
    """

    def __init__(self, shape: tuple[int, ...], *, symbols: int = 64, dim: int = 8, width: int = 32, beta: float = 0.25):
        super().__init__()
        if len(shape) != 3 or min(shape[1:]) < 8 or symbols < 2:
            raise ValueError(
                f"TwoLevels: shape {tuple(shape)}, {symbols} symbols; expected (channels, 8 or more, 8 or more) and 2."
            )
        if dim < 3:
            raise ValueError(f"TwoLevels: dim is {dim}, expected 3 or more: standardised, fewer say a sign at most.")
        self.shape, self.symbols, self.beta = tuple(shape), symbols, beta
        self.grids = tuple(tuple(-(-side // by) for side in shape[1:]) for by in (8, 4))  # top, bottom
        elu = nn.ELU()
        self.lower = nn.Sequential(conv(shape[0], width, 2), elu, conv(width, width, 2), elu, conv(width, width))
        self.upper = nn.Sequential(elu, conv(width, width, 2), elu, conv(width, dim))
        self.above = nn.Sequential(conv(dim, width), elu, conv(width, dim))
        self.join = nn.Sequential(elu, conv(width + dim, dim))
        self.top, self.bottom = Codebook(symbols, dim), Codebook(symbols, dim)
        self.draw = nn.Sequential(conv(2 * dim, width), elu, conv(width, width), elu)
        self.finer, self.last = nn.Sequential(conv(width, width), elu), conv(width, shape[0])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        e_t, e_b, _, _, (moved, held, idle) = self.seen(x)
        drawn, coarse = self.drawn(e_t, e_b), self.drawn(e_t, torch.zeros_like(e_b))
        error = (x - drawn).square().mean() + (x - coarse).square().mean() / 2
        return drawn, error / x.var().clamp_min(1e-6) + (moved + self.beta * held + idle / 2) / 4                  # (3)

    def seen(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """e_t, e_b, their symbols t and b, and both levels' terms, [3]."""
        h_b = self.lower(x)
        e_t, t, of_top = self.top(standard(self.upper(h_b)))
        e_b, b, of_bottom = self.bottom(standard(self.join(torch.cat([h_b, self.wide(e_t)], 1))))
        return e_t, e_b, t, b, of_top + of_bottom                                                                  # (1)

    def wide(self, e_t: Tensor) -> Tensor:
        """D_t: the top level on the bottom's grid."""
        return self.above(resized(e_t, self.grids[1]))

    def drawn(self, e_t: Tensor, e_b: Tensor) -> Tensor:
        """x^, from the symbols' vectors."""
        h = self.draw(torch.cat([self.wide(e_t), e_b], 1))
        half = tuple(-(-side // 2) for side in self.shape[1:])
        return self.last(resized(self.finer(resized(h, half)), self.shape[1:]))


class CodeDensity(nn.Module):
    """A density of a picture's symbols for each code (4): a prior over them. `nn.Density` makes a likelihood of it.

    Told codes [n, inputs] and pictures side by side, [n, inputs + pixels], it answers log p of each symbol given those
    before it, [n, places], top first, in nats: of symbols, not of pixels. Told codes alone it draws symbols, and
    answers the pictures that they are, [n, *shape]; the noise is torch's own. `levels` is fixed, and not learned.
    """

    def __init__(self, inputs: int, levels: TwoLevels, *, width: int = 24, depth: int = 2):
        super().__init__()
        self.inputs, self.levels = inputs, levels.requires_grad_(False)
        symbols, dim = levels.top.vectors.shape
        self.top = Causal(inputs, dim, symbols, width=width, depth=depth, attends=True)
        self.bottom = Causal(inputs + dim, dim, symbols, width=width, depth=depth)

    def forward(self, v: Tensor) -> Tensor:
        code = v[:, : self.inputs]
        if v.shape[1] > self.inputs:
            return torch.cat(self.log_p(code, v[:, self.inputs :].reshape(len(v), *self.levels.shape)), 1)
        e_t = self.levels.top.of(self.chosen(self.top, self.levels.top, code, self.levels.grids[0]))
        below = self.levels.bottom
        e_b = below.of(self.chosen(self.bottom, below, self.under(code, e_t), self.levels.grids[1]))
        return self.levels.drawn(e_t, e_b)

    def log_p(self, code: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Of the symbols of x, top and bottom."""
        e_t, e_b, t, b, _ = self.levels.seen(x)
        return chances(self.top(code, e_t), t), chances(self.bottom(self.under(code, e_t), e_b), b)               # (4)

    def under(self, code: Tensor, e_t: Tensor) -> Tensor:
        """What the bottom is told: the code, and at each place the top."""
        wide = resized(e_t, self.levels.grids[1])
        return torch.cat([code[..., None, None].expand(-1, -1, *wide.shape[-2:]), wide], 1)

    def chosen(self, prior: Causal, book: Codebook, code: Tensor, grid: tuple[int, ...]) -> Tensor:
        """Symbols [n, *grid], one after the other."""
        k = torch.zeros_like(code.flatten(1)[:, :1]).long()[..., None].expand(-1, *grid)
        for n in range(grid[0] * grid[1]):
            scores = prior(code, book.of(k))
            gumbel = -(-torch.rand_like(scores).clamp(1e-6, 1 - 1e-6).log()).log()
            here = (torch.arange(grid[0] * grid[1], device=code.device) == n).view(grid)
            k = torch.where(here, (scores + gumbel).argmax(1), k)
        return k


def perplexity(k: Tensor, symbols: int) -> Tensor:
    """How many symbols are used, as if all of those were used alike: 1 to `symbols` (5).

    >>> perplexity(torch.tensor([0, 0, 3, 3]), 8)
    tensor(2.)
    """
    return torch.special.entr(shares(k, symbols)).sum().exp()


def shares(k: Tensor, symbols: int) -> Tensor:
    """The share of places that have each symbol, [symbols]."""
    return (k.flatten()[:, None] == torch.arange(symbols, device=k.device)).float().mean(0)


def chances(scores: Tensor, k: Tensor) -> Tensor:
    """log softmax of scores [n, symbols, height, width] at k [n, height, width]: [n, places]."""
    return scores.log_softmax(1).gather(1, k[:, None]).flatten(1)


def hot(k: Tensor, vectors: Tensor) -> Tensor:
    """Which symbol: [..., symbols] of zeros and ones."""
    return (k[..., None] == torch.arange(len(vectors), device=k.device)).to(vectors)


def standard(h: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels of each place."""
    h = h - h.mean(1, keepdim=True)
    return h / (h.square().mean(1, keepdim=True) + 1e-5).sqrt()


def resized(h: Tensor, size: tuple[int, ...]) -> Tensor:
    """The nearest value, on a grid of that size."""
    rows, columns = ((torch.arange(n, device=h.device) * old) // n for n, old in zip(size, h.shape[-2:], strict=True))
    return h[..., rows, :][..., columns]


def conv(a: int, b: int, stride: int = 1) -> Conv2d:
    """To grids of the same side, or with stride 2 of half of it, rounded up."""
    return Conv2d(a, b, 3, stride=stride, padding=1)
