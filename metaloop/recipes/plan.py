"""A recipe is a function from a pool to a plan: everything a complete run needs, and the rows it is held to."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ..core import Learner
from ..engine import Run, fit
from ..tasks.pool import Outline, Pool

# pools that read or render images
STORED = ("omniglot", "glyphs", "mini_imagenet", "mnist", "mnist_problems", "omniglot_stream", "rainbow_mnist")


@dataclass(frozen=True)
class Row:
    """One published figure: the tasks it is measured on, the learner as used there, and what the paper says.

    metric: as `evaluate` takes it, accuracy or mean squared error unless given. data: makes the pool whose test tasks
    the row is measured on, where those are not the plan's: transfer to other data. tasks: at most so many are tested,
    where the protocol says so (a stream of 200 classes is no episode of five).
    """

    label: str  # e.g. "5-way 1-shot"
    learner: Learner
    ways: int
    shots: int
    queries: int
    published: float | None = None  # accuracy in per cent, or the metric's own units
    published_ci: float | None = None
    metric: Callable[[Tensor, Tensor], Tensor] | None = None
    data: Callable[[], Pool] | None = None
    tasks: int | None = None

    def tested(self, tasks: int) -> int:
        """How many tasks are tested when `tasks` are asked for."""
        return min(tasks, self.tasks or tasks)


@dataclass(frozen=True)
class Plan:
    """A complete run: `plan.outer(plan.learner, plan.pool, **plan.training())`, then a score for each row.

    outer: how theta improves; `fit`, by the meta-gradient, unless given. It takes what `fit` takes and returns a Run.
    """

    pool: Pool
    learner: Learner
    at_test: Callable[..., Learner]  # (ways=..., inner_steps=...) -> the same F as used at meta-test
    rows: tuple[Row, ...]
    steps: int
    tasks: int
    ways: int
    shots: int
    queries: int
    inner_steps: tuple[int, ...] = ()  # step counts worth showing, for learners that take inner steps
    more_shots: tuple[int, ...] = (1, 2, 3, 5, 10)  # shots worth showing beside the first row's; () for none
    options: dict[str, Any] = field(default_factory=dict)  # further arguments of outer
    outer: Callable[..., Run] = fit

    def training(self) -> dict[str, Any]:
        """The arguments of `outer`."""
        first = self.rows[0]
        validation = {"ways": first.ways, "shots": first.shots, "queries": first.queries, "tasks": 100}
        episode = {"steps": self.steps, "tasks": self.tasks, "ways": self.ways, "shots": self.shots}
        return {
            **episode, "queries": self.queries, "at_test": first.learner, "validation": validation,
            "validate_every": max(1, self.steps // 10), **self.options,
        }


@dataclass(frozen=True)
class Recipe:
    """A named recipe. `build(pool, **settings)` makes the plan; `data` names the pool of the published row.

    budgets: settings by budget: "full" as published; "quick", minutes on two cores; "smoke", seconds, for tests.
    """

    name: str
    paper: str
    summary: str
    data: Callable[[], Pool]
    build: Callable[..., Plan]
    budgets: dict[str, dict[str, Any]]

    @property
    def data_name(self) -> str:
        return getattr(self.data, "func", self.data).__name__

    def rows(self) -> tuple[Row, ...]:
        """The published rows, without reading any data."""
        return self.plan(Outline((1, 28, 28), 1000) if self.data_name in STORED else None).rows

    def plan(self, pool: Pool | None = None, *, steps: int | None = None, budget: str = "full") -> Plan:
        """The plan on a pool, the recipe's own unless given. steps: how long to train, if not as the budget says."""
        if budget not in self.budgets:
            raise ValueError(f"{self.name}: budget is {budget!r}, expected one of {', '.join(self.budgets)}.")
        settings = {**self.budgets["full"], **self.budgets[budget], **({} if steps is None else {"steps": steps})}
        return self.build(self.data() if pool is None else pool, **settings)
