"""Matching networks and SNAIL on Omniglot: the published rows of learners that read the support set."""

from collections.abc import Sequence

import torch

from ..learners.matching import matching
from ..learners.snail import snail
from ..nn import conv4, functional
from ..tasks.pool import Pool
from .few_shot import label
from .plan import Plan, Row

FEATURES = 64  # of SNAIL's embedding


def matching_plan(
    pool: Pool, *, shots: int, published: dict[int, float | None], ways: int, steps: int, metric: str = "euclidean",
    full_context: bool = False,
) -> Plan:
    """Matching networks: episodes of matched shots, 5 queries per class in training and 15 at test, Adam 1e-3 halved
    every tenth of the run, population statistics at test (inductive)."""
    ways = min(ways, pool.train.classes or ways)
    module = conv4(pool.shape, norm_policy="running")
    net, init = functional(module)
    settings = {"metric": metric, "context": module.dim if full_context else None}

    def at_test(ways: int = 5):
        return matching(net.eval(), init, ways=ways, **settings)

    rows = tuple(Row(label(n, shots), at_test(n), n, shots, 15, figure) for n, figure in published.items())
    return Plan(
        pool, matching(net, init, ways=ways, **settings), at_test, rows, steps=steps, tasks=1, ways=ways, shots=shots,
        queries=5, options={"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, max(1, steps // 10), 0.5)},
    )


def snail_plan(
    pool: Pool, *, ways: int, published: dict[int, tuple[float, float]], steps: int, tasks: int = 32, queries: int = 1,
    lr: float = 1e-4, falling: bool = False, downsample: str = "max", filters: int = 128,
    keys: Sequence[int] = (64, 256, 512), values: Sequence[int] = (32, 128, 256),
) -> Plan:
    """SNAIL: one model for 1 to 5 shots, a number drawn anew for each meta-batch, Adam at 1e-4; one query per class
    at test, population statistics (inductive). falling: the rate falls linearly to zero."""
    shots = max(published)
    net, init = functional(conv4(pool.shape, out=FEATURES, downsample=downsample, norm_policy="running"))

    def F_theta(net):
        return snail(net, init, ways=ways, dim=FEATURES, shots=shots, filters=filters, keys=keys, values=values)

    def at_test(ways: int = ways):  # it tells as many classes apart as in training, or fewer
        return F_theta(net.eval())

    def schedule(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps if falling else 1.0)

    rows = tuple(Row(label(ways, k), at_test(), ways, k, 1, *figure) for k, figure in published.items())
    return Plan(
        pool.any_shots(), F_theta(net), at_test, rows, steps=steps, tasks=tasks, ways=ways, shots=shots,
        queries=queries, options={"optimizer": lambda p: torch.optim.Adam(p, lr=lr), "schedule": schedule},
    )
