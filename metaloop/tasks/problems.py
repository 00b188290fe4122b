"""Optimisation problems as tasks: the support set brings along where descent starts."""

from collections.abc import Callable
from pathlib import Path

import torch

from ..core import Data, Params, Problem, Task
from ..targets import NUMBERS
from .functions import _Drawn
from .pool import Over, Pool


class ProblemPool(Over):
    """A pool's tasks, each with a start of its own for the parameters of one network: see `problems`."""

    def __init__(self, pool: Pool, init: Callable[[int], Params], spread: float | None):
        self.pool, self.init, self.spread, self.like = pool, init, spread, init(0)
        self.fixed = getattr(init, "fixed", ())  # what the network does not learn: no start is drawn for it

    def sample(self, tasks=1, ways=5, shots=1, queries=15, generator=None) -> Task:
        (x, y), query = self.pool.sample(tasks, ways, shots, queries, generator)
        where = generator.device if generator is not None else "cpu"
        if self.spread is None:
            seeds = torch.randint(2**62, (tasks,), generator=generator, device=where).tolist()
            drawn = [self.init(seed) for seed in seeds]
            start = {name: torch.stack([phi[name] for phi in drawn]) for name in drawn[0]}
        else:
            start = {
                name: p.expand(tasks, *p.shape)
                if name in self.fixed
                else self.spread * torch.randn(tasks, *p.shape, generator=generator, device=where)
                for name, p in self.like.items()
            }
        start = {name: p.to(self.device) for name, p in start.items()}
        return Task(Problem(x, y, start), query)  # type: ignore[arg-type]

    def on(self, init: Callable[[int], Params]) -> "ProblemPool":
        """The same tasks for another network."""
        return ProblemPool(self.pool, init, self.spread)

    def over(self, pool: Pool) -> "ProblemPool":
        return ProblemPool(pool, self.init, self.spread)

    def uses(self, run: str | Path) -> list[str]:
        there = f"metaloop.open_run({str(run)!r})"
        return [f"optimizer = metaloop.optim.Learned(network.parameters(), {there})    (in Python)"]


def problems(pool: Pool, init: Callable[[int], Params], *, spread: float | None = None) -> Pool:
    """The tasks of a pool as optimisation problems: a network is to be trained on each support set, from its own start.

    init: of that network, as `functional` gives it. Each task's start is init(seed) for a seed of its own, or, with
    spread, independent N(0, spread^2) numbers of the same shapes; what the network does not learn stays as it is.

    >>> import metaloop as ml
    >>> net, init = ml.functional(torch.nn.Linear(10, 1, bias=False))
    >>> problems(least_squares(), init, spread=0.01).sample(tasks=3).support.start["weight"].shape
    torch.Size([3, 1, 10])
    """
    if spread is not None and spread < 0:
        raise ValueError(f"problems({pool.name}, spread={spread}): expected at least 0, or None.")
    return ProblemPool(pool, init, spread)


def least_squares(*, dim: int = 10, law: str = "gaussian") -> Pool:
    """f(w) = |W w - y|^2 as a data set: the rows of W [dim, dim] are the inputs, y [dim] their targets.

    law: of the entries of W and y, "gaussian" (N(0, 1)) or "uniform" (in [0, 1)). Support and query sets are the same:
    what is judged is how low the function itself has come. `sample` ignores ways, shots and queries.
    Raises ValueError for another law, or unless dim is at least 1.
    Source: Andrychowicz et al., Learning to learn by gradient descent by gradient descent, NeurIPS 2016 (gaussian), and
    its authors' code (uniform).
    """
    if law not in ("gaussian", "uniform") or dim < 1:
        raise ValueError(f"least_squares({dim=}, {law=}): expected dim >= 1 and law 'gaussian' or 'uniform'.")

    def deal(tasks, ways, shots, queries, rand, randn):
        numbers = randn if law == "gaussian" else rand
        rows = Data(numbers(tasks, dim, dim), numbers(tasks, dim, 1))
        return rows, rows

    return _Drawn("least_squares", NUMBERS, (dim,), deal)
