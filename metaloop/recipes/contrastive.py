"""Contrastive pretraining on drawings: pairs of one class, or two views of one drawing without any label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "van den Oord et al. 2018"


def contrastive_plan(
    pool: Pool, *, steps: int, views: bool = False, pairs: int = 128, temperature: float = 0.1,
    alpha: float | None = None, width: int = 64, downsample: str = "max", lr: float = 1e-3,
) -> Plan:  # fmt: skip
    """conv4, batches of `pairs` pairs: of as many classes two drawings each, distorted, or, with views, of as many
    drawings two distorted views, labels unseen; InfoNCE both ways, or I_alpha; Adam from lr down a cosine to 0;
    population statistics at test, nearest prototypes by cosine."""
    module = ml.nn.conv4(pool.shape, norm_policy="running", width=width, downsample=downsample)
    net, init = ml.functional(module)
    pairs = pairs if views else min(pairs, pool.train.classes or pairs)
    how = {"temperature": temperature, "alpha": alpha}

    def at_test(ways: int = 5):
        return ml.contrastive(net.eval(), init, ways=ways, **how)

    return Plan(
        ml.tasks.Varied(ml.tasks.Instances(pool) if views else pool, ml.tasks.distortions),
        ml.contrastive(net, init, ways=pairs, **how), at_test,
        tuple(Row(label(n, k), at_test(n), n, k, 15) for n, k in ((5, 1), (5, 5), (20, 1))),
        steps=steps, tasks=1, ways=pairs, shots=1, queries=1,
        options={"optimizer": optim.adam(lr), "schedule": optim.cosine(steps)},
    )  # fmt: skip


RECIPES = [
    recipe(
        f"contrastive-{name}{suffix}", PAPER, f"InfoNCE, {words}; nearest prototypes by cosine", protocol,
        contrastive_plan, views=views, steps=steps, quick={"steps": quick, "downsample": "stride"},
        smoke={"steps": 3, "pairs": 8, "width": 8},
    )
    for name, protocol, steps, quick in (
        ("omniglot", data.vinyals, 20_000, 3000), ("glyphs", data.glyphs, 10_000, 1000),
    )
    for suffix, views, words in (
        ("", False, "two drawings of each class"), ("-views", True, "two views of each drawing, no labels"),
    )
]  # fmt: skip
