"""Meta-LSTM on photographs, and the same learner with its gates held constant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Ravi & Larochelle 2017"


def meta_lstm_plan(
    pool: Pool, *, ways: int, shots: int, steps: int, inner_steps: int, gates: str = "learned", queries: int = 15,
    width: int = 32, downsample: str = "max",
) -> Plan:  # fmt: skip
    """Meta-LSTM as published: one episode per step, all of S in each inner step, Adam 1e-3, gradients of norm 0.25 at
    most. In meta-training the queries are normalised by themselves, at test by the support set (inductive). gates:
    "learned"; "constant", numbers that are learned with the initialisation; "descent", first-order MAML whose rate is
    learned. Validated four times, since adapting takes longer than it does elsewhere."""

    def network(policy: str):
        return ml.functional(
            ml.nn.conv4(pool.shape, out=ways, width=width, downsample=downsample, norm_policy=policy)
        )  # fmt: skip

    net, init = network("transductive")
    inductive, _ = network("support")

    def at_test(ways: int = ways, inner_steps: int = inner_steps, net=inductive):
        return ml.meta_lstm(net, init, inner_steps=inner_steps, gates=gates)

    return Plan(
        pool, at_test(net=net), at_test, (Row(label(ways, shots), at_test(), ways, shots, 15),),
        steps=steps, tasks=1, ways=ways, shots=shots, queries=queries, more_shots=(),
        options={"optimizer": optim.adam(1e-3), "clip": 0.25, "validate_every": max(1, steps // 4)},
    )  # fmt: skip


# Archives differ in how many images they hold, so no published figure stands beside them.
RECIPES = [
    recipe(
        f"meta-lstm-{name}mini-imagenet-{ways}w{shots}s", PAPER, f"{title}, {ways}-way {shots}-shot, mini-ImageNet",
        data.mini_imagenet, meta_lstm_plan, ways=ways, shots=shots, steps=steps, inner_steps=inner_steps, gates=gates,
        quick={"steps": quick, "queries": 5, "downsample": "stride"},
        smoke={"steps": 2, "inner_steps": 2, "queries": 1, "downsample": "stride", "width": 8},
    )
    for ways, shots, inner_steps, steps, quick in ((5, 1, 12, 75_000, 1500), (5, 5, 8, 50_000, 800))
    for name, gates, title in (
        ("", "learned", "meta-LSTM"), ("constant-", "constant", "meta-LSTM with constant gates"),
        ("descent-", "descent", "meta-LSTM that is gradient descent, its rate learned"),
    )
    if shots == 1 or gates == "learned"
]  # fmt: skip
