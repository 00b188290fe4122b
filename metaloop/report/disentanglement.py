"""Does each coordinate of a code hold one factor? Measures in [0, 1], 1 for codes that are the factors, in any order.

    MIG    mean over factors v of [I(z_a; v) - I(z_b; v)] / H(v),  a, b the codes that tell most of v          (1)
    SAP    mean over v of [right(z_a; v) - right(z_b; v)],         right: how often v is guessed from z_l       (2)
    DCI    R[l, v]: how much of v a forest takes from z_l; D = sum_l rho_l (1 - H_V(R[l] / sum R[l])),
           rho_l the share of z_l in all of R; C the same by columns, base L, in the mean                     (3)
    FactorVAE score     v is fixed in a batch: the code with least Var_l / Var votes for v; how often right      (4)
    beta-VAE score      v is fixed in pairs: a logistic regression of v on the mean of |z - z'|; how often right  (5)

z: codes, float [n, L]; v: values of factors, int64 [n, V], 0 .. as many as there are less 1. (1) and (2) see a code in
20 bins of equal width, and (2) guesses what is most frequent in a bin: of codes that are the factors it is 1 less the
frequency of the commonest value, in the mean. Where z and v are of every example that there is, both are exact.
Locatello et al. 2019, arXiv:1811.12359; Chen et al. 2018, arXiv:1802.04942; Kumar et al. 2018, arXiv:1711.00848;
Eastwood & Williams 2018; Kim & Mnih 2018, arXiv:1802.05983; Higgins et al. 2017.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

BINS = 20

Codes = Float[Tensor, "n L"]
Values = Int[Tensor, "n V"]


def measures(z: Codes, v: Values, *, seed: int = 0) -> dict[str, float]:
    """All of them, by name."""
    d, c, told = dci(z, v, seed=seed)
    return {
        "MIG": mig(z, v), "SAP": sap(z, v), "DCI-D": d, "DCI-C": c, "DCI-I": told,
        "FactorVAE": factor_score(z, v, seed=seed), "beta-VAE": beta_score(z, v, seed=seed),
    }  # fmt: skip


def mig(z: Codes, v: Values) -> float:
    """(1), plug-in, in nats within.

    >>> v = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    >>> round(mig(v.double(), v), 9), round(mig(v[:, [0, 0, 1, 1]].double(), v), 9)
    (1.0, 0.0)
    """
    nats = information(z, v)
    most = nats.topk(2, 0).values if len(nats) > 1 else torch.cat([nats, 0 * nats])
    H = torch.stack([torch.special.entr(t.sum(0)).sum() for t in _tables(z[:, :1], v)[0]])
    return ((most[0] - most[1]) / H).mean().item()


def information(z: Codes, v: Values) -> Float[Tensor, "L V"]:
    """I(z_l; v) of each code and factor, in nats, plug-in."""
    H = lambda p: torch.special.entr(p).sum()
    each = [[H(t.sum(0)) + H(t.sum(1)) - H(t) for t in row] for row in _tables(z, v)]
    return torch.stack([torch.stack(row) for row in each])


def sap(z: Codes, v: Values) -> float:
    """(2)."""
    right = torch.tensor([[t.amax(1).sum() for t in row] for row in _tables(z, v)])
    most = right.topk(min(2, len(right)), 0).values
    least = most[1] if len(right) > 1 else torch.tensor([t.sum(0).max() for t in _tables(z, v)[0]])
    return (most[0] - least).mean().item()


def dci(z: Codes, v: Values, *, trees: int = 30, seed: int = 0) -> tuple[float, float, float]:
    """(3) by scikit-learn's random forests, which see all codes at each split: disentanglement, completeness, and how
    often forests of half of the examples, drawn by the seed, are right of the other half."""
    from sklearn import ensemble

    make: Any = ensemble.RandomForestClassifier
    R, told, x = [], [], z.double().numpy()
    first, last = torch.randperm(len(z), generator=torch.Generator().manual_seed(seed)).tensor_split(2)
    for y in v.T.numpy():
        forest = make(trees, max_features=None, min_samples_leaf=5, random_state=seed, n_jobs=1)
        forest.fit(x[first], y[first])
        R.append(torch.from_numpy(forest.feature_importances_))
        told.append(float(forest.score(x[last], y[last])))
    return *disentangled(torch.stack(R, 1)), sum(told) / len(told)


def disentangled(R: Float[Tensor, "L V"]) -> tuple[float, float]:
    """D and C of (3), of importances: 1 and 1 where each row and each column has one that is not 0. A row of zeros
    weighs nothing in D; a column of zeros, a factor of which no code tells, is 0 in the mean that C is."""

    def of(R: Tensor) -> Tensor:
        p = R / R.sum(1, keepdim=True).clamp_min(1e-12)
        return (R.sum(1) > 0) * (1 - torch.special.entr(p).sum(1) / math.log(max(R.shape[1], 2)))

    return (of(R) * R.sum(1) / R.sum().clamp_min(1e-12)).sum().item(), of(R.mT).mean().item()


def factor_score(z: Codes, v: Values, *, votes: int = 500, batch: int = 64, seed: int = 0) -> float:
    """(4): the votes that decide what each code votes for are half of 2 x `votes`, the others are judged. Codes of a
    deviation of 0.05 at most, where the largest is 1, do not vote. Where none does, the score is that of naming the
    factor that is fixed most often."""
    z, g = z.double(), torch.Generator().manual_seed(seed)
    spread = z.var(0, correction=0)
    there = (spread.sqrt() > 0.05 * spread.sqrt().max()).nonzero()[:, 0]
    which, rows = _fixed(v, 2 * votes, batch, g)
    if not len(there):
        return which[votes:].bincount().max().item() / votes
    var = z[:, there][rows].var(1, correction=0) / spread[there]
    chosen = var.argmin(1)
    table = torch.zeros(len(there), v.shape[1])
    table.index_put_((chosen[:votes], which[:votes]), torch.ones(votes), accumulate=True)
    return (table.argmax(1)[chosen[votes:]] == which[votes:]).double().mean().item()


def beta_score(z: Codes, v: Values, *, examples: int = 500, pairs: int = 64, seed: int = 0) -> float:
    """(5), fitted to half of 2 x `examples` and judged on the others; codes are divided by their deviation first, which
    the paper does not do. Raises ValueError of a single factor."""
    from sklearn.linear_model import LogisticRegression

    if v.shape[1] < 2:
        raise ValueError("beta_score: there is one factor, expected at least two, to tell which of them is fixed.")
    g, z = torch.Generator().manual_seed(seed), z.double() / z.double().std(0).clamp_min(1e-9)
    which, rows = _fixed(v, 2 * examples, 2 * pairs, g, paired=True)
    far = (z[rows[:, :pairs]] - z[rows[:, pairs:]]).abs().mean(1).numpy()
    told = LogisticRegression(max_iter=1000).fit(far[:examples], which[:examples].numpy())
    return float(told.score(far[examples:], which[examples:].numpy()))


def _fixed(v: Values, n: int, batch: int, g: torch.Generator, paired: bool = False) -> tuple[Tensor, Tensor]:
    """n times a factor, evenly, and a batch of examples that share a value of it: [n], [n, batch]. paired: the value is
    shared by examples i and batch / 2 + i alone."""
    which = torch.randint(v.shape[1], (n,), generator=g)
    order = [torch.argsort(each, stable=True) for each in v.T]
    counts = [torch.bincount(each) for each in v.T]
    rows = []
    for f in which.tolist():
        first = counts[f].cumsum(0) - counts[f]
        one = torch.randint(len(v), (batch // 2 if paired else 1,), generator=g)
        k = v[one, f].repeat(2) if paired else v[one, f].expand(batch)
        place = first[k] + (torch.rand(batch, generator=g) * counts[f][k]).long()
        rows.append(order[f][place])
    return which, torch.stack(rows)


def _tables(z: Codes, v: Values) -> list[list[Tensor]]:
    """Of each code and factor, the shares of examples in (bin, value): [L][V] of [BINS, values]. Raises ValueError
    where there are not as many codes as values, or a factor has one value."""
    if len(z) != len(v) or z.ndim != 2 or v.ndim != 2:
        raise ValueError(f"codes are {tuple(z.shape)}, factors {tuple(v.shape)}; expected [n, L] and [n, V].")
    if (same := (v == v[:1]).all(0)).any():
        raise ValueError(f"factor {same.int().argmax()} has one value, so that no code tells of it. Leave it out.")
    z = z.double()
    low, high = z.amin(0), z.amax(0)
    place = ((z - low) / (high - low).clamp_min(1e-12) * BINS).long().clamp(0, BINS - 1)
    sizes = (v.amax(0) + 1).tolist()
    joint = lambda b, x, m: torch.bincount(b * m + x, minlength=BINS * m).view(BINS, m).double() / len(v)
    return [[joint(b, x, m) for x, m in zip(v.T, sizes, strict=True)] for b in place.T]
