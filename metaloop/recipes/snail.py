"""SNAIL on Omniglot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

FEATURES = 64  # of the embedding


def snail_plan(
    pool: Pool, *, ways: int, steps: int, test_shots: Sequence[int] = (1, 5), tasks: int = 32, queries: int = 1,
    lr: float = 1e-4, falling: bool = False, downsample: str = "max", filters: int = 128,
    keys: Sequence[int] = (64, 256, 512), values: Sequence[int] = (32, 128, 256),
) -> Plan:  # fmt: skip
    """SNAIL: one model for 1 to 5 shots, a number drawn anew for each meta-batch, Adam at 1e-4; one query per class
    at test, population statistics (inductive). falling: the rate falls linearly to zero."""
    shots = max(test_shots)
    net, init = ml.functional(ml.nn.conv4(pool.shape, out=FEATURES, downsample=downsample, norm_policy="running"))

    def F_theta(net):
        return ml.snail(net, init, ways=ways, dim=FEATURES, shots=shots, filters=filters, keys=keys, values=values)

    def at_test(ways: int = ways):  # it tells as many classes apart as in training, or fewer
        return F_theta(net.eval())

    return Plan(
        pool.any_shots(), F_theta(net), at_test, tuple(Row(label(ways, k), at_test(), ways, k, 1) for k in test_shots),
        steps=steps, tasks=tasks, ways=ways, shots=shots, queries=queries,
        options={
            "optimizer": optim.adam(lr), "schedule": optim.scaled(lambda step: 1 - step / steps if falling else 1.0),
        },
    )  # fmt: skip


# quick and smoke: strided convolutions, a narrow sequence model, a larger rate that falls to zero.
NARROW = {
    "downsample": "stride", "filters": 32, "keys": (32, 32, 32), "values": (32, 32, 32), "lr": 2e-3, "falling": True
}  # fmt: skip
RECIPES = [
    recipe(
        f"snail-omniglot-{ways}w", "Mishra et al. 2018", f"SNAIL, {ways}-way, one model for 1 to 5 shots", data.rotated,
        snail_plan, published=figures, ways=ways, steps=100_000,
        quick={**quick, **NARROW}, smoke={"steps": 3, "tasks": 2, **NARROW},
    ) for ways, figures, quick in (
        (5, {"5-way 1-shot": (99.07, 0.16), "5-way 5-shot": (99.78, 0.09)}, {"steps": 2500, "tasks": 8, "queries": 3}),
        (20, {"20-way 1-shot": (97.64, 0.30), "20-way 5-shot": (99.36, 0.18)}, {"steps": 6000, "tasks": 2}),
    )
]  # fmt: skip
