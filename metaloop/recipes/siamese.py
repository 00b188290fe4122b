"""Siamese networks on drawings: verification of pairs, and one-shot recognition by it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Koch et al. 2015"


def siamese_plan(
    pool: Pool, *, steps: int, distorted: bool = True, classes: int = 32, width: int = 64, dim: int = 256,
    downsample: str = "max", lr: float = 1e-3, test_ways: int = 20, lake: bool = False,
) -> Plan:  # fmt: skip
    """conv4 and a layer of `dim` sigmoids; batches of two drawings of each of `classes`, distorted or not; Adam from lr
    down a cosine to 0; population statistics at test. Rows: one-shot, where ties are wrong, among the test classes, and
    with `lake` on Lake's runs; verification of 10 000 pairs, 20 in a task, half of them of one class."""
    from ..targets import alone, verified

    module = ml.nn.conv4(pool.shape, out=dim, norm_policy="running", width=width, downsample=downsample)
    net, init = ml.functional(module)
    classes = min(classes, pool.train.classes or classes)

    def at_test(ways: int = 5):
        return ml.siamese(net.eval(), init, ways=ways, dim=dim)

    rows = [Row(label(test_ways, 1), at_test(test_ways), test_ways, 1, 5, metric=alone)]
    if lake:
        runs = partial(ml.tasks.lake_runs, size=pool.shape[-1])
        rows += [Row("20-way 1-shot, Lake's runs", at_test(20), 20, 1, 1, metric=alone, data=runs)]
    rows += [Row("verification", at_test(2), 2, 1, 5, metric=verified, tasks=500)]
    return Plan(
        ml.tasks.Varied(pool, ml.tasks.distortions) if distorted else pool,
        ml.siamese(net, init, ways=classes, dim=dim), at_test, tuple(rows),
        steps=steps, tasks=1, ways=classes, shots=1, queries=1,
        options={"optimizer": optim.adam(lr), "schedule": optim.cosine(steps)},
    )  # fmt: skip


RECIPES = [
    *(
        recipe(
            f"siamese-omniglot{name}", PAPER, f"siamese networks, {words}, all pairs of a batch", data.background,
            siamese_plan, distorted=distorted, lake=True, steps=60_000,
            quick={"steps": 20_000, "downsample": "stride"}, smoke={"steps": 3, "classes": 8, "width": 8, "dim": 16},
        ) for name, words, distorted in (
            ("", "drawings distorted", True), ("-plain", "drawings as they are", False),
        )
    ),
    recipe(
        "siamese-glyphs", PAPER, "siamese networks, characters distorted, all pairs of a batch", data.glyphs,
        siamese_plan, steps=10_000, quick={"steps": 2000, "downsample": "stride"},
        smoke={"steps": 3, "classes": 8, "width": 8, "dim": 16},
    ),
]  # fmt: skip
