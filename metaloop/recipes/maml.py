"""MAML, its first-order form, BOIL and Meta-SGD: on pictures, and on the sine curves of Meta-SGD's Table 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, networks
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER, METASGD, BOIL, ANIL = "Finn et al. 2017", "Li et al. 2017", "Oh et al. 2021", "Raghu et al. 2020"


def maml_plan(
    pool: Pool, *, ways: int, shots: int, first_order: bool = False, steps: int, tasks: int, inner_lr: float = 2.0,
    inner_steps: int = 1, test_steps: int = 3, width: int = 64, downsample: str = "stride", queries: int | None = None,
    adapts: str = "", network: networks.Name = "conv4", clip: float | None = None,
) -> Plan:  # fmt: skip
    """MAML as published on Omniglot: as many queries as shots, transductive batch norm, Adam 1e-3.
    inner_lr is for the mean cross-entropy (the authors' 0.4 on a sum over 5 classes is 2.0). adapts: the parameters
    that move, by the beginning of their names: "body" is BOIL, "head" is ANIL. clip: the longest inner gradient.
    width and downsample are conv4's."""
    of_conv4 = {"width": width, "downsample": downsample, "features": "mean" if downsample == "stride" else "flatten"}
    net, init = ml.functional(
        networks.network(network, pool.shape, out=ways, norm_policy="transductive", **of_conv4)
    )
    settings: dict[str, Any] = {"inner_lr": inner_lr, "first_order": first_order, "adapts": adapts}
    if clip is not None:
        settings["optimizer"] = ml.nn.clipped(norm=clip)

    def at_test(ways: int = ways, inner_steps: int = test_steps):
        return ml.maml(net, init, inner_steps=inner_steps, **settings)

    queries = queries or shots
    return Plan(
        pool, ml.maml(net, init, inner_steps=inner_steps, **settings), at_test,
        (Row(label(ways, shots), at_test(), ways, shots, queries),),
        steps=steps, tasks=tasks, ways=ways, shots=shots, queries=queries, inner_steps=(1, 2, 3, 5, 10),
    )  # fmt: skip


def sinusoid_plan(
    pool: Pool, *, shots: int, learn_lr: str | None = None, inner_lr: float = 0.01, steps: int, tasks: int = 25
) -> Plan:
    """Few-shot regression with MAML's meta-batch (curves: arXiv:1707.09835). A 40-40 ReLU network, one inner step on
    the mean squared error of `shots` points, 10 query points, Adam 1e-3; scored by the mean squared error on 100 query
    points after that one step."""
    if not pool.target.numbers or tuple(pool.shape) != (1,):
        raise ValueError(f"this recipe regresses a number on a number; {pool.name} is for {pool.kind}.")
    from torch.nn.functional import mse_loss

    net, init = ml.functional(ml.nn.mlp((1, 40, 40, 1)))

    def at_test(ways: int = 1, inner_steps: int = 1):
        return ml.maml(net, init, inner_lr=inner_lr, inner_steps=inner_steps, learn_lr=learn_lr, loss=mse_loss)

    return Plan(
        pool, at_test(), at_test, (Row(f"{shots}-shot, one step", at_test(), 1, shots, 100),),
        steps=steps, tasks=tasks, ways=1, shots=shots, queries=10, inner_steps=(1, 2, 3, 5, 10),
    )  # fmt: skip


RECIPES = [
    recipe(
        "maml-glyphs", PAPER, "MAML, 5-way 1-shot", data.glyphs, maml_plan,
        ways=5, shots=1, steps=1500, tasks=16, width=32, queries=5, quick={}, smoke={"steps": 3, "tasks": 2},
    ),
    # Archives differ in how many images they hold, so no published figure stands beside it.
    recipe(
        "maml-mini-imagenet-5w1s", PAPER, "MAML, 5-way 1-shot, mini-ImageNet", data.mini_imagenet, maml_plan,
        ways=5, shots=1, steps=60_000, tasks=4, inner_lr=0.05, inner_steps=5, test_steps=10, width=32,
        downsample="max", queries=15, quick={"steps": 300}, smoke={"steps": 2, "tasks": 1, "queries": 1},
    ),
    recipe(
        "anil-mini-imagenet-resnet12-5w1s", ANIL, "ANIL with ResNet-12, 5-way 1-shot, mini-ImageNet",
        data.mini_imagenet, maml_plan, ways=5, shots=1, steps=60_000, tasks=4, inner_lr=0.1, inner_steps=5,
        test_steps=10, adapts="head", network="resnet12", queries=15,
        quick={"steps": 300, "tasks": 2, "queries": 5, "network": "resnet12-quarter"},
        smoke={"steps": 1, "tasks": 1, "queries": 1, "network": "resnet12-tiny"},
    ),
    # BOIL on MAML's protocol, so that the two can be compared: no figure of its paper stands beside it.
    *(
        recipe(
            f"boil-omniglot-{ways}w1s", BOIL, f"BOIL, {ways}-way 1-shot", data.turned_by_task, maml_plan,
            published=None, ways=ways, shots=1, steps=60_000, adapts="body", **many, quick={"steps": 1000},
            smoke={"steps": 3, "tasks": 2},
        ) for ways, many in ((5, {"tasks": 32}), (20, {"tasks": 16, "inner_steps": 5, "test_steps": 5}))
    ),
]  # fmt: skip

for ways, shots, second, first in (
    (5, 1, (98.7, 0.4), (98.3, 0.5)), (5, 5, (99.9, 0.1), (99.2, 0.2)),
    (20, 1, (95.8, 0.3), (89.4, 0.5)), (20, 5, (98.9, 0.2), (97.9, 0.1)),
):  # fmt: skip
    many = {"steps": 60_000, "tasks": 32} if ways == 5 else {
        "steps": 60_000, "tasks": 16, "inner_steps": 5, "test_steps": 5}  # fmt: skip
    for start, title, figure, more in (
        ("maml", "MAML", second, {}),
        ("fomaml", "first-order MAML", first, {"first_order": True, "inner_lr": 0.4}),
    ):
        RECIPES.append(recipe(
            f"{start}-omniglot-{ways}w{shots}s", PAPER, f"{title}, {ways}-way {shots}-shot", data.turned_by_task,
            maml_plan, published={label(ways, shots): figure}, ways=ways, shots=shots, **many, **more,
            quick={"steps": 1000}, smoke={"steps": 3, "tasks": 2},
        ))  # fmt: skip

for shots, maml_figure, sgd_figure in (
    (5, (1.13, 0.18), (0.90, 0.16)), (10, (0.77, 0.11), (0.53, 0.09)), (20, (0.48, 0.08), (0.31, 0.05)),
):  # fmt: skip
    for start, paper, title, figure, more in (
        ("maml", PAPER, "MAML", maml_figure, {}),
        ("metasgd", METASGD, "Meta-SGD", sgd_figure, {"learn_lr": "parameter"}),
    ):
        RECIPES.append(recipe(
            f"{start}-sinusoid-{shots}shot", paper, f"{title} on sine curves, {shots} points", data.sinusoid,
            sinusoid_plan, published={f"{shots}-shot, one step": figure}, shots=shots, steps=60_000, **more,
            quick={"steps": 10_000}, smoke={"steps": 3},
        ))  # fmt: skip
