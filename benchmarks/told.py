"""What the benchmarks' pages share: tables between marks, means with intervals, ranks held to random search."""

import re
from collections.abc import Sequence
from itertools import count

import numpy as np

from metaloop.outer.search_law import chance_of_top


def filled(text: str, mark: str, table: str, page: str = "the page") -> str:
    """The text of a page with what stands between <!-- mark --> and <!-- /mark --> replaced. Raises ValueError unless
    there is one such place."""
    place = re.compile(rf"(<!-- {mark} -->\n).*(<!-- /{mark} -->)", re.S)
    text, found = place.subn(lambda m: m[1] + table + m[2], text)
    if found != 1:
        raise ValueError(f"{page} has no place marked {mark}")
    return text


def interval(values) -> list[float]:
    """Mean and half of Student's 95 % interval."""
    from scipy import stats

    v = np.array(values)
    return [float(v.mean()), float(stats.t.ppf(0.975, len(v) - 1) * v.std(ddof=1) / len(v) ** 0.5)]


def median_rank(draws: int, of: int) -> int:
    """Random search's exact median rank m after so many draws: the least with P(rank <= m) of a half or more."""
    return next(m for m in count(1) if chance_of_top(draws, m, of) >= 0.5)


def below(ranks: Sequence[int] | np.ndarray, draws: int, of: int) -> float:
    """The exact one-sided p that a searcher's ranks, one of each seed, are no oftener than random's at most m.

    Of n of random's the number at most m = median_rank is binomial with P(rank <= m) exactly, whatever their law looks
    like; so of all p no more than a share t is below t.
    """
    from scipy.stats import binomtest

    m = median_rank(draws, of)
    many = int((np.asarray(ranks) <= m).sum())
    return float(binomtest(many, len(ranks), chance_of_top(draws, m, of), "greater").pvalue)


def p_value(p: float) -> str:
    return "p < .001" if p < 1e-3 else f"p {p:.{2 if p >= 0.1 else 3}f}"
