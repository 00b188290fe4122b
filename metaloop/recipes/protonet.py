"""Prototypical networks on pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import metaloop as ml

from . import data, networks, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Snell et al. 2017"


def protonet_plan(
    pool: Pool, *, shots: int, steps: int, ways: int = 60, test_ways: Sequence[int] = (5, 20),
    network: networks.Name = "conv4",
) -> Plan:  # fmt: skip
    """ProtoNet as published: many-way training episodes, matched shots, 5 queries in training and 15 at test,
    Adam 1e-3 halved every tenth of the run, population statistics at test (inductive)."""
    ways = min(ways, pool.train.classes or ways)
    net, init = ml.functional(networks.network(network, pool.shape, norm_policy="running"))
    learner = ml.protonet(net, init, ways=ways)

    def at_test(ways: int = 5):
        return ml.protonet(net.eval(), init, ways=ways)

    rows = tuple(Row(label(n, shots), at_test(n), n, shots, 15) for n in test_ways)
    return Plan(
        pool, learner, at_test, rows, steps=steps, tasks=1, ways=ways, shots=shots, queries=5,
        options={"schedule": optim.halved(steps)},
    )  # fmt: skip


RECIPES = [
    recipe(
        "protonet-glyphs", PAPER, "prototypical networks, 5-way 1-shot", data.glyphs, protonet_plan,
        shots=1, test_ways=(5,), ways=30, steps=450, quick={}, smoke={"ways": 5, "steps": 3},
    ),
    *(
        recipe(
            f"protonet-omniglot-{shots}shot", PAPER, f"prototypical networks, {shots}-shot, 60-way training",
            data.vinyals, protonet_plan, published=figures, shots=shots, steps=20_000,
            quick={"ways": 20, "steps": 1000}, smoke={"ways": 5, "steps": 3},
        ) for shots, figures in (
            (1, {"5-way 1-shot": 98.8, "20-way 1-shot": 96.0}),
            (5, {"5-way 5-shot": 99.7, "20-way 5-shot": 98.9}),
        )
    ),
    # Archives differ in how many images they hold, so no published figure stands beside it.
    recipe(
        "protonet-mini-imagenet-1shot", PAPER, "prototypical networks, 1-shot, mini-ImageNet", data.mini_imagenet,
        protonet_plan, shots=1, test_ways=(5,), ways=30, steps=20_000,
        quick={"ways": 10, "steps": 500}, smoke={"ways": 5, "steps": 2},
    ),
    # The same protocol with larger networks. Quick budgets take smaller ones of their kind.
    recipe(
        "protonet-mini-imagenet-resnet12-1shot", PAPER, "prototypical networks with ResNet-12, 1-shot, mini-ImageNet",
        data.mini_imagenet, protonet_plan, shots=1, test_ways=(5,), ways=30, steps=20_000, network="resnet12",
        quick={"ways": 10, "steps": 500, "network": "resnet12-quarter"},
        smoke={"ways": 2, "steps": 1, "network": "resnet12-tiny"},
    ),
    recipe(
        "protonet-mini-imagenet-vit-1shot", PAPER, "prototypical networks with a ViT, 1-shot, mini-ImageNet",
        data.mini_imagenet, protonet_plan, shots=1, test_ways=(5,), ways=30, steps=40_000, network="vit",
        quick={"ways": 10, "steps": 4000, "network": "vit-small"},
        smoke={"ways": 2, "steps": 1, "network": "vit-small"},
    ),
]  # fmt: skip
