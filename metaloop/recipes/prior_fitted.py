"""A network fitted to a prior over tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool


def prior_fitted_plan(
    pool: Pool, *, steps: int, classes: int = 10, dim: int = 128, layers: int = 6, heads: int = 4,
    head: str = "attention", members: int = 8, tasks: int = 64, shots: int = 20, queries: int = 10, lr: float = 5e-4,
    tested: Sequence[tuple[int, int]] = ((2, 5), (2, 10), (5, 5), (5, 10)),
) -> Plan:  # fmt: skip
    """A Transformer on tables of up to `classes` classes of up to `shots` rows; Adam whose rate rises to lr in the
    first tenth and then falls to nothing; gradients clipped at norm 1. Rows of `tested`, (ways, shots), on further
    tables of the prior; `members` answers are averaged."""
    if len(pool.shape) != 1 or pool.target.numbers:
        raise ValueError(f"this recipe is for tables; {pool.name} is for {pool.kind} of {pool.shape}.")
    net, init = ml.functional(ml.nn.InContext(pool.shape[0], classes, dim=dim, layers=layers, heads=heads, head=head))

    def at_test(ways: int = classes):
        return ml.prior_fitted(net, init, ways=ways, members=members)

    return Plan(
        pool, ml.prior_fitted(net, init, ways=classes), at_test,
        tuple(Row(label(ways, k), at_test(ways), ways, k, 15) for ways, k in tested),
        steps=steps, tasks=tasks, ways=classes, shots=shots, queries=queries, more_shots=(1, 2, 5, 10, 20),
        options={"optimizer": optim.adam(lr), "clip": 1.0, "schedule": optim.one_cycle(lr, steps, 0.1)},
    )  # fmt: skip


# The paper's tables are OpenML's, of up to 1000 rows: no figure of theirs is of these tasks.
RECIPES = [
    recipe(
        "prior-fitted-tables", "Hollmann et al. 2023", "a network fitted to random tables, for tables it never saw",
        data.tables_prior, prior_fitted_plan, steps=200_000,
        quick={"steps": 5000, "dim": 64, "layers": 4, "tasks": 16, "shots": 10, "lr": 1e-3},
        smoke={"steps": 3, "dim": 8, "layers": 1, "heads": 2, "tasks": 2, "shots": 2, "queries": 2, "members": 2},
    )
]  # fmt: skip
