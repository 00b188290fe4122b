"""The baseline on drawings: softmax over all meta-training classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import metaloop as ml

from . import data
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER, SUMMARY = "baseline, after Chen et al. 2019", "softmax pretraining, nearest prototypes"


def pretrain_plan(pool: Pool, *, ways: int = 5, shots: int = 1, steps: int, head: str = "prototypes") -> Plan:
    """The baseline: softmax over all meta-training classes, then nearest prototypes (or a linear head)."""
    module = ml.nn.conv4(pool.shape, norm_policy="running")
    net, init = ml.functional(module)
    flat = pool.flat(batch=64)
    settings = {"classes": flat.classes, "dim": module.dim, "head": head}

    def at_test(ways: int = ways):
        return ml.pretrain(net.eval(), init, ways=ways, **settings)

    return Plan(
        flat, ml.pretrain(net, init, ways=ways, **settings), at_test,
        (Row(label(ways, shots), at_test(), ways, shots, 15),),
        steps=steps, tasks=1, ways=ways, shots=shots, queries=15,
    )  # fmt: skip


RECIPES = [
    recipe("pretrain-glyphs", PAPER, SUMMARY, data.glyphs, pretrain_plan, steps=2000, quick={}, smoke={"steps": 3}),
    recipe(
        "pretrain-omniglot", PAPER, SUMMARY, data.vinyals, pretrain_plan, steps=10_000,
        quick={"steps": 2000}, smoke={"steps": 3},
    ),
]  # fmt: skip
