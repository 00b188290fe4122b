"""Metrics learned from class identities: one network and one predictor, a recipe for each loss."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

WAYS = 16  # classes in a batch of a loss that needs several images of each


def margin_plan(
    pool: Pool, *, loss: str, steps: int, width: int = 64, downsample: str = "max", batch: int = 64, **options
) -> Plan:
    """conv4, batches from all training classes (triplets: as many images of each of 16), Adam from 3e-3 down a
    cosine to 0, population statistics at test; the nearest neighbour decides, on unseen classes and on Lake's runs."""
    module = ml.nn.conv4(pool.shape, norm_policy="running", width=width, downsample=downsample)
    net, init = ml.functional(module)
    if loss == "triplet":
        ways = min(WAYS, pool.train.classes or WAYS)
        dealt, each, made = pool, batch // (2 * ways), ml.objectives.triplet(**options)
    else:
        ways, each = 5, 1  # which a flat pool ignores
        dealt = pool.flat(batch // 2)
        made = getattr(ml.objectives, loss)(classes=dealt.classes, dim=module.dim, **options)

    def at_test(ways: int = 5):
        return ml.margin(net.eval(), init, ways=ways, loss=made)

    runs = partial(ml.tasks.lake_runs, size=pool.shape[-1])
    lake = Row("20-way 1-shot, Lake's runs", at_test(20), 20, 1, 1, data=runs)
    return Plan(
        dealt, ml.margin(net, init, ways=ways, loss=made), at_test,
        (Row(label(5, 1), at_test(5), 5, 1, 15), Row(label(20, 1), at_test(20), 20, 1, 5), lake),
        steps=steps, tasks=1, ways=ways, shots=each, queries=each,
        options={"optimizer": optim.adam(3e-3), "schedule": optim.cosine(steps)},
    )  # fmt: skip


LOSSES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "softmax": (
        "baseline, after Chen et al. 2019", "softmax over all classes, the baseline of the margins", {"loss": "softmax"}
    ),
    "sphereface": ("Liu et al. 2017", "SphereFace, with its annealing", {"loss": "sphereface"}),
    "cosface": ("Wang et al. 2018", "CosFace, that is AM-Softmax", {"loss": "cosface"}),
    "arcface": ("Deng et al. 2019", "ArcFace", {"loss": "arcface"}),
    "triplet": ("Schroff et al. 2015", "triplets, all of a batch", {"loss": "triplet"}),
    "semihard": ("Schroff et al. 2015", "FaceNet: semi-hard triplets", {"loss": "triplet", "mining": "semihard"}),
}  # fmt: skip
RECIPES = [
    recipe(
        f"margin-omniglot-{name}", paper, f"{summary}; nearest neighbour on the sphere", data.background, margin_plan,
        **settings, steps=20_000, quick={"steps": 8000, "downsample": "stride"}, smoke={"steps": 3, "batch": 32},
    ) for name, (paper, summary, settings) in LOSSES.items()
]  # fmt: skip
