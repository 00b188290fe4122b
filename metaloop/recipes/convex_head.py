"""Heads that are solved anew for each task, on drawings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "O'Donoghue & Maddison 2019"


def convex_head_plan(
    pool: Pool, *, ways: int, shots: int, queries: int, steps: int, width: int = 64, inner_steps: int = 20,
    strength: float = 0.1,
) -> Plan:  # fmt: skip
    """One episode per step, matched ways and shots, Adam 1e-3 halved every tenth of the run, 15 queries per class at
    test, population statistics (inductive). inner_steps, strength: as `ml.convex_head` takes them."""
    net, init = ml.functional(ml.nn.conv4(pool.shape, width=width, norm_policy="running"))

    def learner(net, ways: int):
        return ml.convex_head(net, init, ways=ways, strength=strength, steps=inner_steps)

    def at_test(ways: int = ways):
        return learner(net.eval(), ways)

    return Plan(
        pool, learner(net, ways), at_test, (Row(label(ways, shots), at_test(), ways, shots, 15),),
        steps=steps, tasks=1, ways=ways, shots=shots, queries=queries,
        options={"optimizer": optim.adam(1e-3), "schedule": optim.halved(steps)},
    )  # fmt: skip


RECIPES = [
    recipe(
        f"convex-head-omniglot-5w{shots}s", PAPER, f"a convex head with a certificate, 5-way {shots}-shot",
        data.vinyals, convex_head_plan, ways=5, shots=shots, queries=5, steps=20_000,
        quick={"steps": 6000}, smoke={"queries": 2, "steps": 2, "width": 8, "inner_steps": 3},
    ) for shots in (1, 5)
]  # fmt: skip
