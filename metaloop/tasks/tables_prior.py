"""Random tables: a prior from which whole data sets are drawn, to learn to learn from."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Data
from ..targets import CLASSES
from .functions import _Drawn
from .pool import Pool, Splits

DEPTH, WIDTH = 4, 16  # of the networks of causes, at most
SPARE = 2  # rows made for each that is dealt, so that thresholds have room


def tables_prior(*, features: int = 10, varied: bool = True, anticausal: float = 0.5) -> Pool:
    """Tables of a random structural causal model, with classes: after TabPFN's prior (Hollmann et al., ICLR 2023,
    arXiv:2207.01848, section 4). For each table there is a network of up to 4 layers of up to 16 nodes,

        h_0 = causes,    h_l = a(W_l h_{l-1}) + s e_l,    e_l ~ N(0, I)

    with one nonlinearity a (tanh, leaky ReLU, ELU or the identity), a noise s, and W_l Gaussian and sparse to a drawn
    degree. 1 to `features` of its nodes, drawn from all layers, are the columns; some are then cut into a few levels,
    and others bent, z -> sinh(b z) / b. The class is another node's value, between thresholds that are drawn such that
    each class has enough rows; in some tables each class lies between two pairs of them. With probability `anticausal`
    the class is a cause instead: the causes of class k are Gaussian about a mean of its own. Classes are numbered at
    random. Columns have mean 0 and deviation 1; the rest of the `features`, wherever they stand, are 0.

    `sample` gives x float32 [tasks, ways * n, features] and y int64 [tasks, ways * n]. varied: a batch to train on has
    a number of ways from 2 .. ways, the fewer the likelier, and of shots from 1 .. shots, evenly; `val` and `test`
    have what is asked for. Raises ValueError unless features is at least 1 and anticausal a probability.

    >>> tables_prior().test.sample(tasks=3, ways=4, shots=5, queries=2).support.x.shape
    torch.Size([3, 20, 10])
    """
    if features < 1 or not 0 <= anticausal <= 1:
        raise ValueError(f"tables_prior({features=}, {anticausal=}): expected features >= 1 and a probability.")

    def deal(tasks, ways, shots, queries, rand, randn):
        return _split(*_tables(tasks, ways, SPARE * (shots + queries), features, anticausal, rand, randn),
                      ways, shots, queries, rand)  # fmt: skip

    def of_any_size(tasks, ways, shots, queries, rand, randn):
        ways = min(2, ways) + int(rand(1) ** 2 * max(1, ways - 1))
        shots = 1 + int(rand(1) * shots)
        return deal(tasks, ways, shots, queries, rand, randn)

    as_asked = _Drawn("tables_prior", CLASSES, (features,), deal)
    if not varied:
        return as_asked
    return Splits(_Drawn("tables_prior", CLASSES, (features,), of_any_size), as_asked, as_asked)


def _tables(
    tasks: int, ways: int, rows: int, features: int, anticausal: float, rand: Callable, randn: Callable
) -> tuple[Tensor, Tensor, Tensor]:
    """Columns [tasks, n, features], with n = ways * rows, the node that decides [tasks, n], and the class that is a
    cause [tasks, n], -1 in tables where none is."""
    n, device = ways * rows, rand(1).device
    one = lambda: rand(tasks, 1, 1)  # a number for each table
    node, layer = torch.arange((DEPTH + 1) * WIDTH, device=device) % WIDTH, torch.arange(DEPTH + 1, device=device)
    depth, width = 1 + (one() * DEPTH).long(), 3 + (one() * (WIDTH - 2)).long()
    kind, noise, kept, spread = (one() * 4).long(), 0.3 * one() ** 2, 0.3 + 0.7 * one(), 0.2 + 3 * one()

    is_cause = rand(tasks, 1) < anticausal
    cause = torch.arange(ways, device=device).repeat_interleave(rows).expand(tasks, n)
    means = spread * randn(tasks, ways, WIDTH) * is_cause[..., None]
    layers = [randn(tasks, n, WIDTH) + means.repeat_interleave(rows, 1)]
    for _ in range(DEPTH):
        W = randn(tasks, WIDTH, WIDTH) * (rand(tasks, WIDTH, WIDTH) < kept) * (node[:WIDTH] < width).mT
        h = 1.5 * _scaled(layers[-1] @ W)
        bent = torch.stack([h.tanh(), F.leaky_relu(h), F.elu(h), h])
        layers.append(bent.gather(0, kind.expand(1, *h.shape))[0] + noise * randn(tasks, n, WIDTH))

    known = (layer.repeat_interleave(WIDTH) <= depth[:, 0]) & (node < width[:, 0])  # [tasks, nodes]
    drawn = (rand(*known.shape) - known.float()).argsort(1)[:, : features + 1]
    target, x = torch.cat(layers, -1).gather(2, drawn[:, None].expand(-1, n, -1)).split((1, features), -1)

    x = x.sub(x.mean(1, keepdim=True))
    x, each = _scaled(x), lambda: rand(tasks, 1, features)  # a number for each column
    bend, levels, cut = 0.01 + 1.5 * each() * (each() < 0.5), 1 + (each() * 6).floor(), each() < 0.6 * one()
    x = torch.where(cut, ((x + 2) * levels / 4).floor().clamp_min(0).minimum(levels), torch.sinh(bend * x) / bend)
    columns = 1 + (rand(tasks, 1) * (known.sum(1, keepdim=True) - 1).clamp_max(features)).floor()
    x = _scaled(x - x.mean(1, keepdim=True)) * (rand(tasks, features).argsort(1).argsort(1) < columns)[:, None]
    return x, target[..., 0], torch.where(is_cause, cause, -1)


def _scaled(x: Tensor) -> Tensor:
    """Columns of deviation 1; constant ones stay."""
    deviation = x.std(1, keepdim=True)
    return x / torch.where(deviation > 1e-4, deviation, 1.0)


def _split(
    x: Tensor, target: Tensor, cause: Tensor, ways: int, shots: int, queries: int, rand: Callable
) -> tuple[Data, Data]:
    """S and Q, of so many rows of each class, from tables that have more of each."""
    (tasks, n), need = target.shape, shots + queries
    place = torch.arange(max(need, ways), device=x.device)

    # By its rank a row falls between thresholds that leave each class `need` rows and a random share of the others. In
    # some tables ranks are folded before: then each class is of two intervals.
    share = (rand(tasks, ways) ** 2 + 1e-3).cumsum(1)
    edges = need * (place[:ways] + 1) + ((n - need * ways) * share / share[:, -1:]).floor()
    rank, half = target.argsort(1).argsort(1), n // 2
    rank = torch.where(rand(tasks, 1) < 0.3, rank % half * 2 + rank // half, rank)
    y = torch.where(cause < 0, torch.searchsorted(edges[:, :-1].contiguous(), rank.to(edges), right=True), cause)

    order = (y + rand(tasks, n)).argsort(1)  # class by class, in random order
    count = (y[..., None] == place[:ways]).sum(1)
    first = count.cumsum(1) - count
    rows = order.gather(1, (first[..., None] + place[:need]).flatten(1)).view(tasks, ways, need)
    name, parts = rand(tasks, ways).argsort(1), []
    for k, part in ((shots, rows[..., :shots]), (queries, rows[..., shots:])):
        mixed = rand(tasks, ways * k).argsort(1)
        chosen, labels = part.flatten(1).gather(1, mixed), name.repeat_interleave(k, 1).gather(1, mixed)
        parts.append(Data(x.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1])), labels))
    return parts[0], parts[1]
