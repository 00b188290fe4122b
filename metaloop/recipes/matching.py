"""Matching networks on Omniglot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Vinyals et al. 2016"


def matching_plan(
    pool: Pool, *, shots: int, ways: int, steps: int, test_ways: Sequence[int] = (5, 20), metric: str = "euclidean",
    full_context: bool = False,
) -> Plan:  # fmt: skip
    """Matching networks: episodes of matched shots, 5 queries per class in training and 15 at test, Adam 1e-3 halved
    every tenth of the run, population statistics at test (inductive)."""
    ways = min(ways, pool.train.classes or ways)
    module = ml.nn.conv4(pool.shape, norm_policy="running")
    net, init = ml.functional(module)
    settings = {"metric": metric, "context": module.dim if full_context else None}

    def at_test(ways: int = 5):
        return ml.matching(net.eval(), init, ways=ways, **settings)

    rows = tuple(Row(label(n, shots), at_test(n), n, shots, 15) for n in test_ways)
    return Plan(
        pool, ml.matching(net, init, ways=ways, **settings), at_test, rows,
        steps=steps, tasks=1, ways=ways, shots=shots, queries=5, options={"schedule": optim.halved(steps)},
    )  # fmt: skip


RECIPES = [
    *(
        recipe(
            f"matching-omniglot-{shots}shot", PAPER, f"matching networks, {shots}-shot, {ways}-way training",
            data.vinyals, matching_plan, published=figures, shots=shots, ways=ways, steps=20_000,
            quick={"ways": 20, "steps": 1000}, smoke={"ways": 5, "steps": 3},
        ) for shots, ways, figures in (
            (1, 60, {"5-way 1-shot": 98.1, "20-way 1-shot": 93.8}),
            (5, 20, {"5-way 5-shot": 98.9, "20-way 5-shot": 98.5}),
        )
    ),
    recipe(
        "matching-fce-omniglot-1shot", PAPER, "matching networks with full context embeddings, 1-shot", data.vinyals,
        matching_plan, shots=1, ways=20, steps=20_000, full_context=True,
        quick={"steps": 1000}, smoke={"ways": 5, "steps": 3},
    ),
]  # fmt: skip
