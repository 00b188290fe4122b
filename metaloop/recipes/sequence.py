"""Matching networks and SNAIL on Omniglot: the published rows of learners that read the support set."""

from collections.abc import Sequence

import torch

from ..learners.matching import matching
from ..learners.snail import snail
from ..nn import conv4, functional
from ..tasks.pool import Pool
from .few_shot import label
from .plan import Plan, Row


def matching_plan(
    pool: Pool, *, shots: int, published: dict[int, float | None], ways: int = 20, queries: int = 5, steps: int,
    tasks: int = 1, metric: str = "cosine", temperature: float = 10.0, full_context: bool = False, width: int = 64,
) -> Plan:
    """Matching networks: 20-way episodes of matched shots, 5 queries in training and 15 at test, Adam 1e-3 halved every
    tenth of the run, population statistics at test (inductive)."""
    ways = min(ways, pool.train.classes or ways)
    module = conv4(pool.shape, norm_policy="running", width=width)
    net, init = functional(module)
    settings = {"metric": metric, "temperature": temperature, "context": module.dim if full_context else None}

    def at_test(ways: int = 5):
        return matching(net.eval(), init, ways=ways, **settings)

    rows = tuple(Row(label(n, shots), at_test(n), n, shots, 15, figure) for n, figure in published.items())
    return Plan(
        pool, matching(net, init, ways=ways, **settings), at_test, rows,
        steps=steps, tasks=tasks, ways=ways, shots=shots, queries=queries,
        options={"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, max(1, steps // 10), 0.5)},
    )


def snail_plan(
    pool: Pool, *, ways: int, published: dict[int, tuple[float, float]], steps: int, tasks: int = 32, queries: int = 1,
    lr: float = 1e-4, norm_policy: str = "running", downsample: str = "max", width: int = 64, filters: int = 128,
    keys: Sequence[int] = (64, 256, 512), values: Sequence[int] = (32, 128, 256), halve: bool = False,
) -> Plan:
    """SNAIL as published: one model for 1 to 5 shots, drawn anew for each meta-batch, Adam 1e-4."""
    shots = max(published)
    module = conv4(pool.shape, norm_policy=norm_policy, downsample=downsample, width=width, out=64)
    net, init = functional(module)

    def learner(net):
        return snail(net, init, ways=ways, dim=64, shots=shots, filters=filters, keys=keys, values=values)

    def at_test(ways: int = ways):
        return learner(net.eval())

    rows = tuple(Row(label(ways, k), at_test(), ways, k, 1, *figure) for k, figure in published.items())
    return Plan(
        pool.any_shots(), learner(net), at_test, rows, steps=steps, tasks=tasks, ways=ways, shots=shots, queries=queries,
        options={"optimizer": lambda p: torch.optim.Adam(p, lr=lr), "clip": None,
                 **({"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, max(1, steps // 10), 0.6)} if halve else {})},
    )
