"""Metrics learned from class identities: one network and one predictor, a row for each loss."""

from functools import partial

import torch

from .. import objectives
from ..learners.margin import margin
from ..nn import conv4, functional
from ..tasks import lake_runs
from ..tasks.pool import Pool
from .few_shot import label
from .plan import Plan, Row

WAYS = 16  # classes in a batch of a loss that needs several images of each


def margin_plan(
    pool: Pool, *, loss: str, steps: int, width: int = 64, downsample: str = "max", batch: int = 64, **options
) -> Plan:
    """conv4, batches from all training classes (triplets: as many images of each of 16), Adam 1e-3 halved every tenth
    of the run, population statistics at test; the nearest neighbour decides, on unseen classes and on Lake's runs."""
    module = conv4(pool.shape, norm_policy="running", width=width, downsample=downsample)
    net, init = functional(module)
    if loss == "triplet":
        ways = min(WAYS, pool.train.classes or WAYS)
        dealt, each, made = pool, batch // (2 * ways), objectives.triplet(**options)
    else:
        ways, each = 5, 1  # which a flat pool ignores
        dealt = pool.flat(batch // 2)
        made = getattr(objectives, loss)(classes=dealt.classes, dim=module.dim, **options)

    def at_test(ways: int = 5):
        return margin(net.eval(), init, ways=ways, loss=made)

    lake = Row("20-way 1-shot, Lake's runs", at_test(20), 20, 1, 1, data=partial(lake_runs, size=pool.shape[-1]))
    return Plan(
        dealt, margin(net, init, ways=ways, loss=made), at_test,
        (Row(label(5, 1), at_test(5), 5, 1, 15), Row(label(20, 1), at_test(20), 20, 1, 5), lake),
        steps=steps, tasks=1, ways=ways, shots=each, queries=each,
        options={"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, max(1, steps // 10), 0.5)},
    )  # fmt: skip
