"""A recipe is a function from a pool to a plan: everything a complete run needs, and the rows it is held to.

Nothing here imports torch: what recipes there are can be told at once.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from ..core import Learner
    from ..engine import Run, Score
    from ..tasks.pool import Pool
    from .data import Protocol

VALIDATION_TASKS = 100


@dataclass(frozen=True)
class Figure:
    """What a paper says of a row."""

    label: str  # the row's
    published: float  # accuracy in per cent, or the metric's own units
    published_ci: float | None = None


@dataclass(frozen=True)
class Row:
    """The tasks a figure is measured on, the learner as used there, and what the paper says.

    metric: as `evaluate` takes it, accuracy or mean squared error unless given. data: makes the pool whose test tasks
    the row is measured on, where those are not the plan's: transfer to other data. tasks: at most so many are tested,
    where the protocol says so (a stream of 200 classes is no episode of five). published: what the recipe says.
    """

    label: str  # e.g. "5-way 1-shot"
    learner: Learner
    ways: int
    shots: int
    queries: int
    published: float | None = None
    published_ci: float | None = None
    metric: Callable[[Tensor, Tensor], Tensor] | None = None
    data: Callable[[], Pool] | None = None
    tasks: int | None = None

    def tested(self, tasks: int) -> int:
        """How many tasks are tested when `tasks` are asked for."""
        return min(tasks, self.tasks or tasks)

    def score(self, run: Run, pool: Pool, *, learner: Learner | None = None, **how: Any) -> Score:
        """`evaluate` on the row's tasks, by its metric. It is tested on as many at once as the run's plan trains on.

        learner: instead of the row's. how: what else `evaluate` takes; other ways, shots and queries as well.
        """
        from ..engine import evaluate

        episode: dict[str, Any] = {"ways": self.ways, "shots": self.shots, "queries": self.queries}
        chunk = run.plan.options.get("chunk")
        return evaluate(learner or self.learner, run.theta, pool, metric=self.metric, chunk=chunk, **episode | how)


def label(ways: int, shots: int) -> str:
    """How a row of classification is called."""
    return f"{ways}-way {shots}-shot"


def _fit() -> Callable[..., Run]:
    from ..engine import fit

    return fit


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
    outer: Callable[..., Run] = field(default_factory=_fit)

    def training(self) -> dict[str, Any]:
        """The arguments of `outer`."""
        first = self.rows[0]
        validation = {"ways": first.ways, "shots": first.shots, "queries": first.queries, "tasks": VALIDATION_TASKS}
        episode = {"steps": self.steps, "tasks": self.tasks, "ways": self.ways, "shots": self.shots}
        return {
            **episode, "queries": self.queries, "at_test": first.learner, "validation": validation,
            "validate_every": max(1, self.steps // 10), **self.options,
        }

    def _repr_html_(self) -> str:
        from ..engine.notebook import table

        step = f"{self.tasks} tasks, {self.ways}-way {self.shots}-shot, {self.queries} queries of each class"
        tests = "; ".join(row.label for row in self.rows)
        return table("Plan", [("data", self.pool.name), ("meta-steps", self.steps), ("a step", step), ("tests", tests)])


def inductive(
    pool: Pool, net: Any, learner: Callable[[Any, int], Learner], *, ways: int, shots: int, queries: int, steps: int
) -> Plan:  # fmt: skip
    """One episode per step, ways and shots as at test, Adam 1e-3 halved every tenth of the run, 15 queries per class at
    test, population statistics there. learner: (net, ways) -> F with the network in that mode."""
    from . import optim

    def at_test(ways: int = ways) -> Learner:
        return learner(net.eval(), ways)

    return Plan(
        pool, learner(net, ways), at_test, (Row(label(ways, shots), at_test(), ways, shots, 15),),
        steps=steps, tasks=1, ways=ways, shots=shots, queries=queries,
        options={"optimizer": optim.adam(1e-3), "schedule": optim.halved(steps)},
    )  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """A named recipe. `build(pool, steps=..., **settings)` makes the plan; `data` is what the published row is about.

    published: the paper's figures; they stay with the recipe, whatever a run was trained with.
    budgets: settings by budget: "full" as published; "quick", minutes on two cores; "smoke", seconds, for tests.
    baseline: whether this is what the paper holds its system against, whose figures are no goal.
    """

    name: str
    paper: str
    summary: str
    data: Protocol
    build: Callable[..., Plan]
    published: tuple[Figure, ...]
    budgets: dict[str, dict[str, Any]]
    baseline: bool = False

    @property
    def system(self) -> str:
        """The name of the recipe's module, which is that of its learner or outer loop."""
        return self.build.__module__.rpartition(".")[2]

    @property
    def data_name(self) -> str:
        return self.data.name

    def rows(self) -> tuple[Figure, ...]:
        """The rows that a paper's figure stands beside, in the order of the plan's. Builds no network."""
        return self.published

    def settings(self, budget: str = "full") -> dict[str, Any]:
        """Every setting of a budget besides `steps`, by name: those of the plan function that are not said as well.
        A run keeps them; see `plan`."""
        if budget not in self.budgets:
            raise ValueError(f"{self.name}: budget is {budget!r}, expected one of {', '.join(self.budgets)}.")
        given = {k: p.default for k, p in inspect.signature(self.build).parameters.items() if p.default is not p.empty}
        settings = {**given, **self.budgets["full"], **self.budgets[budget]}
        return {name: tuples(value) for name, value in settings.items() if name != "steps"}

    def plan(
        self, pool: Pool | None = None, *, steps: int | None = None, budget: str = "full",
        settings: Mapping[str, Any] | None = None,
    ) -> Plan:  # fmt: skip
        """The plan on a pool, the recipe's own unless given.

        steps: how long to train, if not as the budget says. settings: instead of the budget's, as a run has kept them
        (JSON's lists will do); those that it does not name are the plan function's own.
        """
        if settings is None:
            settings = self.settings(budget)
        if steps is None:
            steps = {**self.budgets["full"], **self.budgets[budget]}["steps"]
        named = {name: tuples(value) for name, value in settings.items()}
        try:
            inspect.signature(self.build).bind(pool, steps=steps, **named)
        except TypeError as error:
            raise ValueError(f"{self.name} was made with other settings than it now takes: {error}.") from None
        plan = self.build(self.data() if pool is None else pool, steps=steps, **named)
        figures = {figure.label: figure for figure in self.published}
        return replace(plan, rows=tuple(_beside(row, figures.get(row.label)) for row in plan.rows))


def recipe(
    name: str, paper: str, summary: str, data: Protocol, build: Callable[..., Plan], *,
    published: Mapping[str, float | tuple[float, float]] | None = None, quick: dict[str, Any], smoke: dict[str, Any],
    **full: Any,
) -> Recipe:  # fmt: skip
    """A recipe. published: figures by the label of their row, with half the width of their interval where it is told.
    full: the settings of the published run; quick, smoke: what differs there."""
    pairs = [(row, told if isinstance(told, tuple) else (told,)) for row, told in (published or {}).items()]
    figures = tuple(Figure(row, *told) for row, told in pairs)
    return Recipe(name, paper, summary, data, build, figures, {"smoke": smoke, "quick": quick, "full": full})


def tuples(value: Any) -> Any:
    """A setting as plans take it: lists, which is what JSON makes of tuples, and ranges as tuples."""
    return tuple(map(tuples, value)) if isinstance(value, list | tuple | range) else value


def _beside(row: Row, figure: Figure | None) -> Row:
    if figure is None:
        return row
    return replace(row, published=figure.published, published_ci=figure.published_ci)
