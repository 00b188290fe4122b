"""Pictures drawn pixel by pixel: PixelCNN++ (Salimans et al. 2017, arXiv:1701.05517), conditioned on a code as van den
Oord et al. 2016 (arXiv:1606.05328)

    log p(x | code) = sum over n of log p(x_n | x_1 .. x_{n-1}, code),   pixels row by row                         (1)
    p(x_n)  = sum over i of pi_i [s((u + h - mu_i) / e^l_i) - s((u - h - mu_i) / e^l_i)],   s the sigmoid          (2)
              u in [-1, 1] is a level, 2h from the next; the first bin is open below, the last one above
    ln[s(a) - s(b)] = -softplus(-a) - softplus(b) + ln(1 - e^(b-a))                                                (3)
    block   : x + a s(b),   (a, b) = conv(f(conv(f(x)) + W f(v))) + W code,   f(x) = [elu(x), elu(-x)]             (4)
    v, x    : a stream that sees the rows above; and one that sees what is to the left as well, and reads v
    reads   : attention of a pixel to those before it, j < n                                                       (5)
"""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .sequence import attend


class MixtureOfLogistics(NamedTuple):
    """A discrete distribution over `levels` of grey in each coordinate: a mixture of logistic ones in bins (2).

    Levels are k / (levels - 1), 0 for paper and 1 for ink; log_prob takes the nearest. Its numbers are nats of the
    discrete picture: no density, no dequantisation. Others than 256: `grey(levels)`.
    """

    weight: Tensor  # logits [..., components]
    mean: Tensor  # in [-1, 1], more or less
    log_scale: Tensor
    levels = 256
    components = 5

    @classmethod
    def of(cls, out: Tensor) -> "MixtureOfLogistics":
        """From a network's output [..., d * 3 * components]: of each coordinate its logits, means and log-scales."""
        weight, mean, log_scale = out.unflatten(-1, (-1, 3, cls.components)).unbind(-2)
        return cls(weight, mean, log_scale.clamp(-7, 20))

    def draw(self) -> Tensor:
        """[..., d] levels in [0, 1], drawn; the noise is torch's own."""
        gumbel = -(-torch.rand_like(self.weight).clamp(1e-6, 1 - 1e-6).log()).log()
        chosen = (self.weight + gumbel).argmax(-1, keepdim=True)
        mean, scale = self.mean.gather(-1, chosen)[..., 0], self.log_scale.gather(-1, chosen)[..., 0].exp()
        u = mean + scale * torch.rand_like(mean).clamp(1e-6, 1 - 1e-6).logit()
        return ((u + 1) / 2 * (self.levels - 1)).round().clamp(0, self.levels - 1) / (self.levels - 1)

    def each(self, x: Tensor) -> Tensor:
        """log p of each coordinate by itself, [..., d] -> [..., d]."""
        top = self.levels - 1
        k = (x * top).round().clamp(0, top)[..., None]
        away, half = 2 * k / top - 1 - self.mean, 1 / top
        per = (-self.log_scale).exp()
        below = torch.where(k == top, 0.0, -F.softplus(-(away + half) * per))
        above = torch.where(k == 0, 0.0, -F.softplus((away - half) * per))
        inside = torch.where((k > 0) & (k < top), (-torch.expm1(-2 * half * per)).log(), 0.0)                      # (3)
        return (self.weight.log_softmax(-1) + below + above + inside).logsumexp(-1)

    def log_prob(self, x: Tensor) -> Tensor:
        """[..., d] -> [...], in nats.

        >>> half = MixtureOfLogistics.of(torch.zeros(2 * 15)).log_prob(torch.tensor([0.0, 1.0]))
        >>> round(half.exp().item() ** 0.5, 3)
        0.27
        """
        return self.each(x).sum(-1)


@cache
def grey(levels: int, components: int = 5) -> type[MixtureOfLogistics]:
    """`MixtureOfLogistics` of so many levels and components, as a likelihood. Two levels are ink and paper."""
    if levels < 2 or components < 1:
        raise ValueError(f"grey: levels is {levels}, components {components}, expected at least 2 and 1.")
    return type("MixtureOfLogistics", (MixtureOfLogistics,), {"levels": levels, "components": components})


class CausalImage(nn.Module):
    """A density of grey pictures for each code, pixel by pixel (1). `metaloop.nn.Density` makes a likelihood of it.

    Told codes [n, inputs] and pictures side by side, [n, inputs + pixels], it answers log p of each pixel given those
    before it, [n, pixels], in nats of the discrete picture; told codes alone it draws pictures, [n, 1, height, width],
    with torch's own noise, a pass for each pixel. Pixels are of `levels` greys in [0, 1], as `MixtureOfLogistics` has
    them; of other numbers the nearest is taken. attends: with (5) behind the blocks. Raises ValueError for pictures of
    several channels, or told of another number of pixels.
    """

    def __init__(
        self, inputs: int, shape: tuple[int, ...], *, levels: int = 256, components: int = 5, width: int = 16,
        depth: int = 2, attends: bool = False,
    ):  # fmt: skip
        super().__init__()
        if len(shape) != 3 or shape[0] != 1:
            raise ValueError(f"CausalImage: pictures have shape {tuple(shape)}, expected one channel (1, h, w).")
        self.inputs, self.shape, self.head = inputs, tuple(shape), grey(levels, components)
        self.body = Causal(inputs, 1, 3 * components, width=width, depth=depth, attends=attends)
        self.reach = shape[1] if attends else 3 + 2 * depth  # rows above

    def forward(self, v: Tensor) -> Tensor:
        code, (_, height, width), top = v[:, : self.inputs], self.shape, self.head.levels - 1
        if v.shape[1] > self.inputs:
            x = v[:, self.inputs :]
            if x.shape[1] != height * width:
                raise ValueError(f"CausalImage: told pictures of {x.shape[1]} pixels, expected {height} x {width}.")
            x = (x * top).round().clamp(0, top) / top  # what is judged is what the later pixels are told
            return self.of(self.answers(code, x.view(-1, *self.shape))).each(x)
        x = v.new_zeros(len(v), height * width)
        for n in range(height * width):
            row = n // width
            seen = slice(max(0, row - self.reach), row + 1)  # what the pixel can be told by
            out = self.answers(code, x.view(-1, 1, height, width)[:, :, seen])[:, :, -1, n % width]
            x = torch.where(torch.arange(height * width, device=v.device) == n, self.of(out[:, None]).draw(), x)
        return x.view(-1, *self.shape)

    def answers(self, code: Tensor, x: Tensor) -> Tensor:
        """[n, 3 components, height, width]: what says how each pixel is distributed."""
        return self.body(code, 2 * x - 1)

    def of(self, out: Tensor) -> MixtureOfLogistics:
        out = out.flatten(2).mT if out.ndim == 4 else out
        return self.head.of(out.flatten(1))


class Causal(nn.Module):
    """(code, x [n, channels, h, w]) -> [n, out, h, w]: at each place of the code and of the places before it. The code
    is [n, inputs], or a map [n, inputs, h, w], of which a place sees what is at it and those before."""

    def __init__(self, inputs: int, channels: int, out: int, *, width: int, depth: int, attends: bool = False):
        super().__init__()
        self.rows = Shifted(channels + 1, width, 2, 3, down=True)
        self.row = Shifted(channels + 1, width, 1, 3, down=True)
        self.left = Shifted(channels + 1, width, 2, 1, right=True)
        self.above = nn.ModuleList(Gated(inputs, width, 2, 3) for _ in range(depth))
        self.before = nn.ModuleList(Gated(inputs, width, 2, 2, reads=True) for _ in range(depth))
        self.attention = Attention(channels, width) if attends else None
        self.head = nn.Conv2d(2 * width, out, 1)

    def forward(self, code: Tensor, x: Tensor) -> Tensor:
        code = code[..., None, None] if code.ndim == 2 else code
        seen = torch.cat([x, torch.ones_like(x[:, :1])], 1)  # tells paper from what is outside
        v, h = self.rows(seen), self.row(seen) + self.left(seen)
        for above, before in zip(self.above, self.before, strict=True):
            v = above(v, code)
            h = before(h, code, v)
        return self.head(both(h if self.attention is None else h + self.attention(h, x)))


class Shifted(nn.Conv2d):
    """A convolution that sees `rows` rows from above to its own, and `columns` columns: around its own if they are
    three, else up to it. Then down by a row, or right by a column, which it is then said not to have seen."""

    def __init__(self, a: int, b: int, rows: int, columns: int, *, down: bool = False, right: bool = False):
        super().__init__(a, b, (rows, columns))
        left, across = (1, 1) if columns == 3 else (columns - 1, 0)
        self.margin, self.shift = (left, across, rows - 1, 0), (int(right), 0, int(down), 0)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return F.pad(super().forward(F.pad(x, self.margin)), self.shift)[..., :height, :width]


class Gated(nn.Module):
    """A block (4)."""

    def __init__(self, inputs: int, width: int, rows: int, columns: int, *, reads: bool = False):
        super().__init__()
        self.first, self.second = Shifted(2 * width, width, rows, columns), Shifted(2 * width, 2 * width, rows, columns)
        self.read = nn.Conv2d(2 * width, width, 1) if reads else None
        self.code = nn.Conv2d(inputs, 2 * width, 1)

    def forward(self, x: Tensor, code: Tensor, v: Tensor | None = None) -> Tensor:
        h = self.first(both(x))
        if self.read is not None and v is not None:
            h = h + self.read(both(v))
        a, b = (self.second(both(h)) + self.code(code)).chunk(2, 1)
        return x + a * b.sigmoid()                                                                                 # (4)


class Attention(nn.Module):
    """What a pixel finds at those before it, their values among what is looked through; the first finds nothing. (5)"""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.query, self.found = nn.Linear(width, width), nn.Linear(width + channels, 2 * width)

    def forward(self, h: Tensor, x: Tensor) -> Tensor:
        here = h.flatten(2).mT  # [n, pixels, width]
        k, v = F.pad(self.found(torch.cat([here, x.flatten(2).mT], -1)), (0, 0, 1, 0)).chunk(2, -1)
        pixels = here.shape[1]
        before = torch.ones(pixels, pixels + 1, dtype=torch.bool, device=x.device).tril()  # column 0 is nobody
        return attend(self.query(here), k, v, before).mT.unflatten(-1, h.shape[-2:])


def both(x: Tensor) -> Tensor:
    """[elu(x), elu(-x)], on channels."""
    return F.elu(torch.cat([x, -x], 1))
