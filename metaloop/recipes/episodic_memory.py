"""Sequences of bits, longer from level to level, learned with and without a memory of the levels before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool


def episodic_memory_plan(
    pool: Pool, *, method: str, marks: int, words: str, test_shots: Sequence[int], steps: int, updates: int,
    goal: float = 0.8, remembered: int = 64, margin: float = 0.5, hidden: int = 64, tasks: int = 32, lr: float = 3e-3,
) -> Plan:  # fmt: skip
    """A life through levels, by method (`episodic_memory`); an LSTM of `hidden`; Adam at lr; gradients clipped at norm
    10. marks: channels that hold no bits. The rows are of the levels with test_shots, as life leaves them."""
    from ..targets import exact

    if not pool.target.numbers or len(pool.shape) != 1 or pool.shape[0] <= marks:
        raise ValueError(f"this recipe says sequences of bits again; {pool.name} is for {pool.kind} of {pool.shape}.")
    size = pool.shape[0]
    learner = ml.ntm(*ml.functional(ml.nn.Recurrent(size, hidden, size - marks)))
    how: dict[str, Any] = {"method": method, "updates": updates, "goal": goal, "margin": margin}
    return Plan(
        pool, learner, lambda ways=1: learner,
        tuple(Row(words.format(n), learner, 1, n, n, metric=exact) for n in test_shots),
        steps=steps, tasks=tasks, ways=1, shots=test_shots[0], queries=test_shots[0], more_shots=(),
        outer=ml.episodic_memory,
        options={**how, "remembered": remembered, "optimizer": optim.adam(lr), "clip": 10.0, "chunk": tasks},
    )  # fmt: skip


# The paper's figures are drawings, so none stands beside.
COPY: dict[str, Any] = {"marks": 1, "words": "{} vectors", "test_shots": (3, 5, 9, 17)}
RECALL: dict[str, Any] = {"marks": 2, "words": "{} pairs of neighbours", "test_shots": (1, 2, 3)}
RECIPES = [
    recipe(
        f"{method}-{name}", "Sodhani et al. 2020", f"{problem}, level after level: {summary}", pool,
        episodic_memory_plan, method=method, steps=levels * 20_000, updates=20_000, hidden=128, **task,
        quick={"steps": levels * 3000, "updates": 3000, "hidden": 64},
        smoke={
            "steps": 3, "updates": 2, "hidden": 4, "tasks": 2, "remembered": 2, "test_shots": task["test_shots"][:1],
        },
    )
    for name, problem, levels, pool, task in (
        ("copy-levels", "sequences said again", 8, data.copy_levels, COPY),
        ("recall-levels", "what came after an item", 5, data.recall_levels, RECALL),
    )
    for method, summary in (
        ("gem", "steps that harm nothing remembered"), ("replay", "what is remembered is learned again"),
        ("plain", "no memory"),
    )
]  # fmt: skip
