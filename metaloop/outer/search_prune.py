"""When to stop evaluating a trial: as soon as tasks in pairs say that it is worse than the best.

All trials are scored on the same tasks, dealt in one shuffled order. After each block of tasks the differences to the
best trial so far, task by task, go into Wilcoxon's signed-rank test (one-sided, ties split). Easy tasks are easy for
both, so only differences count; and since the order is shuffled, what has been seen is a sample of what is to come.
"""

from collections.abc import Iterator, Sequence
from typing import Any

BLOCK = 10  # tasks between two looks, at first
LONGEST = 50  # tasks that are held at once
LEVEL = 0.01  # of each look's test


def blocks(tasks: int) -> Iterator[range]:
    """Which tasks are scored between two looks: 10, 10, 20, 40, then 50 at a time."""
    start, size = 0, BLOCK
    while start < tasks:
        stop = min(start + size, tasks)
        yield range(start, stop)
        start, size = stop, min(stop, LONGEST)


def worse(scores: Sequence[float], best: Sequence[float], *, higher: bool, level: float = LEVEL) -> bool:
    """Whether scores of the first tasks [n] say that the mean over all is worse than that of the best trial [>= n].

    higher: whether more is better. level: the probability, for one look, to say so of one that is as good.
    """
    from scipy.stats import wilcoxon

    gaps = [ours - theirs for ours, theirs in zip(scores, best, strict=False)]
    if not any(gaps):
        return False
    told: Any = wilcoxon(gaps, alternative="less" if higher else "greater", zero_method="zsplit")
    return bool(told.pvalue < level)
