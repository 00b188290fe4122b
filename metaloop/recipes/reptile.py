"""Reptile on drawings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Nichol et al. 2018"


def reptile_plan(
    pool: Pool, *, ways: int, steps: int, test_shots: Sequence[int] = (1, 5), test_steps: int = 50
) -> Plan:
    """Reptile as published: 10 training shots whatever is tested, inner Adam without momentum whose second moment goes
    from task to task, meta-step 1 falling to 0; one query per class at test, normalised by the support set (inductive)
    or with the other queries (transductive)."""
    many = ways > 5
    lr, batch, inner = (5e-4, 20, 10) if many else (1e-3, 10, 5)
    settings = {"inner_lr": lr, "carry_moments": True}
    net, init = ml.functional(ml.nn.conv4(pool.shape, out=ways, downsample="stride"))
    inductive, _ = ml.functional(ml.nn.conv4(pool.shape, out=ways, downsample="stride", norm_policy="support"))

    def at_test(ways: int = ways, inner_steps: int = test_steps, net=inductive):
        return ml.reptile(net, init, inner_steps=inner_steps, batch=10 if many else 5, **settings)

    rows = []
    for shots in test_shots:
        rows.append(Row(f"{label(ways, shots)}, inductive", at_test(), ways, shots, 1))
        rows.append(Row(f"{label(ways, shots)}, transductive", at_test(net=net), ways, shots, 1))
    return Plan(
        pool, ml.reptile(net, init, inner_steps=inner, batch=batch, **settings), at_test, tuple(rows),
        steps=steps, tasks=5, ways=ways, shots=10, queries=1,
        inner_steps=tuple(n for n in (5, 10, 20, 50) if n <= test_steps),
        options={"optimizer": optim.sgd(1.0), "schedule": optim.scaled(lambda step: 1 - step / steps)},
    )  # fmt: skip


RECIPES = [
    recipe(
        "reptile-glyphs", PAPER, "Reptile, 5-way 1-shot", data.glyphs, reptile_plan,
        ways=5, test_shots=(1,), steps=3000, quick={}, smoke={"steps": 3, "test_steps": 5},
    ),
    *(
        recipe(
            f"reptile-omniglot-{ways}w", PAPER, f"Reptile, {ways}-way, one run for 1 and 5 shots",
            data.upright_at_test, reptile_plan, published=figures, ways=ways, steps=steps,
            quick={"steps": 5000}, smoke={"steps": 3, "test_steps": 5},
        ) for ways, steps, figures in (
            (5, 100_000, {
                "5-way 1-shot, inductive": 95.39, "5-way 1-shot, transductive": 97.68,
                "5-way 5-shot, inductive": 98.90, "5-way 5-shot, transductive": 99.48,
            }),
            (20, 200_000, {
                "20-way 1-shot, inductive": 88.14, "20-way 1-shot, transductive": 89.43,
                "20-way 5-shot, inductive": 96.65, "20-way 5-shot, transductive": 97.12,
            }),
        )
    ),
]  # fmt: skip
