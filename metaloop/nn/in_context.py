"""A Transformer that reads a labelled table, and answers rows by it."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from .sequence import attend


class SetLayer(nn.Module):
    """One layer of a Transformer (Vaswani et al. 2017) in which all rows look at S alone:

        k, v = K u(s), V u(s) of the rows s of S,    h' = h + O attend(Q u(h), k, v),    h'' = h' + mlp(u'(h'))

    in `heads` parts; u and u' are layer norms. `layer(h [n, dim], seen=None) -> (h'' [n, dim], seen)`: without `seen`
    h is S itself, and seen is its k and v.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm, self.norm_after = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.q, self.kv, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, h: Float[Tensor, "n dim"], seen: Any = None) -> tuple[Float[Tensor, "n dim"], Any]:
        u = self.norm(h)
        if seen is None:
            seen = tuple(self._parts(t) for t in self.kv(u).chunk(2, -1))
        found = attend(self._parts(self.q(u)), *seen)  # [heads, n, dim / heads]
        h = h + self.out(found.movedim(0, 1).flatten(1))
        return h + self.mlp(self.norm_after(h)), seen

    def _parts(self, t: Float[Tensor, "n dim"]) -> Float[Tensor, "heads n part"]:
        return t.reshape(len(t), self.heads, -1).movedim(1, 0)


class InContext(nn.Module):
    """A table's labels from a few of its rows, S, in one pass: the Transformer of prior-fitted networks (Mueller et al.
    2022, arXiv:2112.10510; Hollmann et al. 2023, arXiv:2207.01848). Rows have no order, and queries see S alone.

        z = (x - mean of S) / deviation of S, column by column, times sqrt(features / columns that vary)  (a)
        h = E z + Y e_y for a row of S,    h = E z for a query;    then `SetLayer`s                      (b)
        scores = W u(h), u a layer norm                                                                  (c)
        or     = log sum over the rows i of S with y_i = k of exp(-|P u(h) - P u(h_i)|^2 e^t / sqrt(dim))   (c')

    `net(x [n, columns], member [n, ways])` reads S, member one-hot, and gives its memory, tensors that do not grow with
    the queries; `net(x [m, columns], None, memory) -> scores [m, classes]`, -inf for a class that S does not show.
    columns may be fewer than `features`, and ways fewer than `classes`. In (a) a column that is constant in S is zero,
    so it does not matter what it is; what is more than 5 deviations off is 5 off. head: "linear" (c) or
    "attention" (c').
    Raises ValueError on an unknown head, a dim that heads do not divide, and too many columns or ways.
    """

    def __init__(
        self, features: int = 10, classes: int = 10, *, dim: int = 64, layers: int = 4, heads: int = 4,
        head: str = "attention",
    ):  # fmt: skip
        super().__init__()
        if head not in ("linear", "attention"):
            raise ValueError(f"InContext: head is {head!r}, expected 'linear' or 'attention'.")
        if dim % heads:
            raise ValueError(f"InContext: {heads} heads do not divide dim={dim}.")
        self.features, self.classes, self.attends = features, classes, head == "attention"
        self.embed, self.label = nn.Linear(features, dim, bias=False), nn.Linear(classes, dim, bias=False)
        self.layers = nn.ModuleList(SetLayer(dim, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, dim if self.attends else classes)
        self.log_scale = nn.Parameter(torch.zeros(())) if self.attends else None

    def forward(self, x: Float[Tensor, "n columns"], member: Bool[Tensor, "n ways"] | None = None, memory: Any = None):
        self._check("columns", x.shape[-1], self.features)
        x = F.pad(x, (0, self.features - x.shape[-1]))
        if memory is None:
            assert member is not None
            self._check("classes", member.shape[-1], self.classes)
            member = F.pad(member, (0, self.classes - member.shape[-1]))
            scaling = self._scaling(x)
            h, seen = self._embedded(x, scaling) + self.label(member.to(x)), []
            for layer in self.layers:
                h, kept = layer(h)
                seen.append(kept)
            return scaling, tuple(seen), member, *([self.head(self.norm(h))] if self.attends else [])
        scaling, seen, shown, *keys = memory
        h = self._embedded(x, scaling)
        for layer, kept in zip(self.layers, seen, strict=True):
            h, _ = layer(h, kept)
        answer = self.head(self.norm(h))                                                                      # (c)
        if self.log_scale is None:
            return torch.where(shown.any(0), answer, -torch.inf)
        d = (answer[:, None] - keys[0]).square().sum(-1) * self.log_scale.exp() / answer.shape[-1] ** 0.5
        return torch.where(shown, (-d)[..., None], -torch.inf).logsumexp(-2)                                 # (c')

    def _scaling(self, x: Float[Tensor, "n features"]) -> tuple[Tensor, Tensor, Tensor]:
        """Each column's mean, and two factors: before what is far off is drawn in, and after, 0 if it is constant."""
        varies = x.amax(0) > x.amin(0)
        deviation = torch.where(varies, (x - x.mean(0)).square().mean(0), 1.0).sqrt()
        return x.mean(0), 1 / deviation, varies * (self.features / varies.sum().clamp_min(1)).sqrt()

    def _embedded(self, x: Float[Tensor, "n features"], scaling: tuple[Tensor, ...]) -> Float[Tensor, "n dim"]:
        mean, scale, weight = scaling
        return self.embed(((x - mean) * scale).clamp(-5, 5) * weight)                                         # (a, b)

    def _check(self, what: str, n: int, most: int) -> None:
        if n > most:
            raise ValueError(f"InContext: {n} {what}, this network was made for up to {most}.")
