"""Few-shot classification of images: the published rows of each learner, as Python functions."""

import torch

from ..learners.maml import maml
from ..learners.pretrain import pretrain
from ..learners.protonet import protonet
from ..learners.reptile import reptile
from ..nn import conv4, functional
from ..tasks.pool import Pool
from .plan import Plan, Row


def label(ways: int, shots: int) -> str:
    return f"{ways}-way {shots}-shot"


def protonet_plan(pool: Pool, *, shots: int, published: dict[int, float], ways: int = 60, steps: int) -> Plan:
    """ProtoNet as published: many-way training episodes, matched shots, 5 queries in training and 15 at test,
    Adam 1e-3 halved every tenth of the run, population statistics at test (inductive)."""
    ways = min(ways, pool.train.classes or ways)
    net, init = functional(conv4(pool.shape, norm_policy="running"))
    learner = protonet(net, init, ways=ways)

    def at_test(ways: int = 5):
        return protonet(net.eval(), init, ways=ways)

    rows = tuple(Row(label(n, shots), at_test(n), n, shots, 15, figure) for n, figure in published.items())
    return Plan(
        pool, learner, at_test, rows, steps=steps, tasks=1, ways=ways, shots=shots, queries=5,
        options={"schedule": lambda o: torch.optim.lr_scheduler.StepLR(o, max(1, steps // 10), 0.5)},
    )


def maml_plan(
    pool: Pool, *, ways: int, shots: int, published: float | None, published_ci: float | None = None,
    first_order: bool = False, steps: int, tasks: int, inner_lr: float = 2.0, inner_steps: int = 1,
    test_steps: int = 3, width: int = 64, downsample: str = "stride", queries: int | None = None, **options,
) -> Plan:
    """MAML as published on Omniglot: as many queries as shots, transductive batch norm, Adam 1e-3.
    inner_lr is for the mean cross-entropy (the authors' 0.4 on a sum over 5 classes is 2.0)."""
    features = "mean" if downsample == "stride" else "flatten"
    net, init = functional(conv4(pool.shape, out=ways, width=width, downsample=downsample, features=features))
    settings = {"inner_lr": inner_lr, "first_order": first_order, **options}

    def at_test(ways: int = ways, inner_steps: int = test_steps):
        return maml(net, init, inner_steps=inner_steps, **settings)

    queries = queries or shots
    rows = (Row(label(ways, shots), at_test(), ways, shots, queries, published, published_ci),)
    return Plan(
        pool, maml(net, init, inner_steps=inner_steps, **settings), at_test, rows,
        steps=steps, tasks=tasks, ways=ways, shots=shots, queries=queries, inner_steps=(1, 2, 3, 5, 10),
    )


def reptile_plan(
    pool: Pool, *, ways: int, published: dict[int, tuple[float | None, float | None]], steps: int,
    test_steps: int = 50,
) -> Plan:
    """Reptile as published: 10 training shots whatever is tested, inner Adam without momentum whose second moment goes
    from task to task, meta-step 1 falling to 0; one query per class at test, normalised by the support set (inductive)
    or with the other queries (transductive). published: by shots, the figures of both."""
    many = ways > 5
    lr, batch, inner = (5e-4, 20, 10) if many else (1e-3, 10, 5)
    settings = {"inner_lr": lr, "carry_moments": True}
    net, init = functional(conv4(pool.shape, out=ways, downsample="stride"))
    inductive, _ = functional(conv4(pool.shape, out=ways, downsample="stride", norm_policy="support"))

    def at_test(ways: int = ways, inner_steps: int = test_steps, net=inductive):
        return reptile(net, init, inner_steps=inner_steps, batch=10 if many else 5, **settings)

    rows = []
    for shots, (figure, with_queries) in published.items():
        rows.append(Row(f"{label(ways, shots)}, inductive", at_test(), ways, shots, 1, figure))
        rows.append(Row(f"{label(ways, shots)}, transductive", at_test(net=net), ways, shots, 1, with_queries))
    return Plan(
        pool, reptile(net, init, inner_steps=inner, batch=batch, **settings), at_test, tuple(rows),
        steps=steps, tasks=5, ways=ways, shots=10, queries=1,
        inner_steps=tuple(n for n in (5, 10, 20, 50) if n <= test_steps),
        options={
            "optimizer": lambda p: torch.optim.SGD(p, lr=1.0),
            "schedule": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1 - step / steps),
        },
    )


def pretrain_plan(pool: Pool, *, ways: int = 5, shots: int = 1, steps: int, head: str = "prototypes") -> Plan:
    """The baseline: softmax over all meta-training classes, then nearest prototypes (or a linear head)."""
    module = conv4(pool.shape, norm_policy="running")
    net, init = functional(module)
    flat = pool.flat(batch=64)
    settings = {"classes": flat.classes, "dim": module.dim, "head": head}

    def at_test(ways: int = ways):
        return pretrain(net.eval(), init, ways=ways, **settings)

    rows = (Row(label(ways, shots), at_test(), ways, shots, 15),)
    return Plan(flat, pretrain(net, init, ways=ways, **settings), at_test, rows, steps=steps, tasks=1,
                ways=ways, shots=shots, queries=15)  # fmt: skip
