"""Heads that are solved anew for each task, on drawings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import metaloop as ml

from . import data
from .plan import Plan, inductive, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "O'Donoghue & Maddison 2019"


def convex_head_plan(
    pool: Pool, *, ways: int, shots: int, queries: int, steps: int, width: int = 64, inner_steps: int = 20,
    strength: float = 0.1,
) -> Plan:  # fmt: skip
    """As `inductive`. inner_steps, strength: as `ml.convex_head` takes them."""
    net, init = ml.functional(ml.nn.conv4(pool.shape, width=width, norm_policy="running"))

    def learner(net, ways: int):
        return ml.convex_head(net, init, ways=ways, strength=strength, steps=inner_steps)

    return inductive(pool, net, learner, ways=ways, shots=shots, queries=queries, steps=steps)


RECIPES = [
    recipe(
        f"convex-head-omniglot-5w{shots}s", PAPER, f"a convex head with a certificate, 5-way {shots}-shot",
        data.vinyals, convex_head_plan, ways=5, shots=shots, queries=5, steps=20_000,
        quick={"steps": 6000}, smoke={"queries": 2, "steps": 2, "width": 8, "inner_steps": 3},
    ) for shots in (1, 5)
]  # fmt: skip
