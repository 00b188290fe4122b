"""The law of random search: what x draws from N choices find, before anything is evaluated.

    P(one of the top K among x draws) = 1 - (1 - K/N)^x                       with replacement         (1)
                                      = 1 - C(N-K, x) / C(N, x)               without                  (2)
    E[best rank after x draws]        = sum over k of (k/N)^x, k = 1 .. N     with replacement         (3)
                                      = (N + 1) / (x + 1)                     without                  (4)
    E[best score after x draws]       = sum over i of s_(i) C(i-1, x-1) / C(N, x)                      (5)

where s_(1) <= ... <= s_(N) are the scores of all choices, and a draw without replacement is the beginning of a random
order. Rank 1 is the best. Every searcher has to be better than this. Bergstra & Bengio 2012 (JMLR 13) has (1).
"""

from collections.abc import Sequence
from math import ceil, log, prod


def chance_of_top(draws: int, top: int, of: int, *, replacement: bool = False) -> float:
    """The probability that `draws` of `of` choices hold one of the best `top`: (2), or (1) with replacement.

    >>> round(chance_of_top(230, 10, 1000, replacement=True), 4), round(chance_of_top(230, 10, 1000), 4)
    (0.9009, 0.9277)

    Raises ValueError unless 0 <= draws (<= of without replacement) and 1 <= top <= of.
    """
    _check(top, of)
    if draws < 0 or (draws > of and not replacement):
        raise ValueError(f"chance_of_top: {draws} draws from {of} choices.")
    if replacement:
        return 1 - (1 - top / of) ** draws
    return 1 - prod(max(of - draws - i, 0) / (of - i) for i in range(top))


def draws_for_top(chance: float, top: int, of: int, *, replacement: bool = False) -> int:
    """The fewest draws by which one of the best `top` of `of` choices is there with at least that probability.

    >>> draws_for_top(0.9, 10, 1000, replacement=True), draws_for_top(0.9, 10, 1000)
    (230, 205)

    Raises ValueError unless 0 < chance < 1 and 1 <= top <= of.
    """
    _check(top, of)
    if not 0 < chance < 1:
        raise ValueError(f"draws_for_top: chance={chance}, expected a probability between 0 and 1.")
    low, high = 0, of - top + 1  # by then it is certain without replacement
    if replacement:
        high = 1 if top == of else ceil(log(1 - chance) / log(1 - top / of)) + 1
    while high - low > 1:  # chance_of_top(low) < chance <= chance_of_top(high)
        middle = (low + high) // 2
        enough = chance_of_top(middle, top, of, replacement=replacement) >= chance
        low, high = (low, middle) if enough else (middle, high)
    return high


def expected_rank(draws: int, of: int, *, replacement: bool = False) -> float:
    """The mean rank of the best of `draws` from `of` choices, 1 for the best of all: (4), or (3) with replacement.

    Raises ValueError unless 1 <= draws, and draws <= of without replacement.
    """
    _check(1, of)
    if draws < 1 or (draws > of and not replacement):
        raise ValueError(f"expected_rank: {draws} draws from {of} choices.")
    return sum((k / of) ** draws for k in range(1, of + 1)) if replacement else (of + 1) / (draws + 1)


def expected_best(scores: Sequence[float], *, higher: bool = True) -> list[float]:
    """(5) for x = 1 .. N: the mean of the best of the first x of these scores, over all their orders.

    higher: whether more is better. Raises ValueError if there are no scores.
    """
    if not scores:
        raise ValueError("expected_best: there are no scores.")
    ordered, n = sorted(scores, reverse=not higher), len(scores)  # the best last
    found = []
    for x in range(1, n + 1):
        weight, total = x / n, 0.0  # C(i-1, x-1) / C(n, x) at i = n, then downwards
        for i in range(n, x - 1, -1):
            total += weight * ordered[i - 1]
            if i > x:
                weight *= (i - x) / (i - 1)
        found.append(total)
    return found


def _check(top: int, of: int) -> None:
    if not 1 <= top <= of:
        raise ValueError(f"the law of random search: the best {top} of {of} choices.")
