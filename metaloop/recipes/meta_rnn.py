"""Functions of two numbers, learned by the state of a recurrent network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool


def meta_rnn_plan(
    pool: Pool, *, shots: int, test_shots: Sequence[int], hidden: int, steps: int, tasks: int = 64, lr: float = 5e-3
) -> Plan:
    """One LSTM layer on sequences of shots + 1 examples, every prediction scored; Adam whose rate rises to lr in the
    first tenth and then falls to nothing; gradients clipped at norm 1. Each row is the mean squared error on the
    example after so many."""
    if not pool.target.numbers or len(pool.shape) != 1:
        raise ValueError(f"this recipe regresses a number on a few; {pool.name} is for {pool.kind} of {pool.shape}.")
    learner = ml.meta_rnn(*ml.functional(ml.nn.Recurrent(pool.shape[0] + 1, hidden, 1)))
    rows = tuple(Row(f"after {n} examples", learner, 1, n, 20) for n in test_shots)
    return Plan(
        pool, learner, lambda ways=1: learner, rows, steps=steps, tasks=tasks, ways=1, shots=shots, queries=1,
        more_shots=(1, 2, 5, 10, 20, 30, 50),
        options={"optimizer": optim.adam(lr), "clip": 1.0, "schedule": optim.one_cycle(lr, steps, 0.1)},
    )  # fmt: skip


# The papers print curves, not figures.
RECIPES = [
    recipe(
        f"meta-rnn-{pool.name}", "Hochreiter et al. 2001", f"a recurrent network that learns {summary}", pool,
        meta_rnn_plan, shots=shots, test_shots=test_shots, hidden=hidden, steps=60_000,
        quick={"steps": 10_000}, smoke={"steps": 3, "tasks": 2, "hidden": 4},
    ) for pool, summary, shots, test_shots, hidden in (
        (data.boolean, "Boolean functions of two bits", 20, (10, 20), 16),
        (data.semilinear, "soft half-planes", 40, (10, 35), 32),
        (data.quadratic, "quadratic functions of the plane", 40, (35, 30), 64),
    )
]  # fmt: skip
