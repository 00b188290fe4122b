"""Relation networks on drawings, and prototypical networks with the same encoder and as many steps beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Sung et al. 2018"


def relation_plan(
    pool: Pool, *, ways: int, shots: int, queries: int, steps: int, loss: str = "mse",
    scored_by: Literal["relations", "prototypes"] = "relations",
) -> Plan:  # fmt: skip
    """A relation network as published: matched ways and shots, one episode per step, Adam 1e-3 halved every tenth of
    the run, gradients of norm 0.5 at most; 15 queries per class at test, normalised by the population (inductive) or
    with each other (transductive): one theta. scored_by: "relations", or "prototypes", a prototypical network on the
    same maps, trained alike."""
    prototypes = scored_by == "prototypes"

    def networks(policy: str):
        encoder = ml.nn.conv4(
            pool.shape, downsample="twice", norm_policy=policy, features="flatten" if prototypes else "map"
        )  # fmt: skip
        if prototypes:
            return ml.functional(encoder)
        return *ml.functional(encoder), *ml.functional(ml.nn.Relation(encoder.shape, norm_policy=policy))

    def learner(networks, ways: int):
        return ml.protonet(*networks, ways=ways) if prototypes else ml.relation(*networks, ways=ways, loss=loss)

    running = networks("running")
    inductive = [part.eval() if hasattr(part, "eval") else part for part in running]

    def at_test(ways: int = ways, networks=inductive):
        return learner(networks, ways)

    of_batch = at_test(networks=networks("transductive"))
    rows = (
        Row(f"{label(ways, shots)}, inductive", at_test(), ways, shots, 15),
        Row(f"{label(ways, shots)}, transductive", of_batch, ways, shots, 15),
    )
    return Plan(
        pool, learner(running, ways), at_test, rows, steps=steps, tasks=1, ways=ways, shots=shots, queries=queries,
        more_shots=(), options={"optimizer": optim.adam(1e-3), "schedule": optim.halved(steps), "clip": 0.5},
    )  # fmt: skip


# ways, shots, queries per class in meta-training, steps of the quick budget, the paper's figure and its interval.
ROWS = (
    (5, 1, 19, 4000, 99.6, 0.2), (5, 5, 15, 4000, 99.8, 0.1), (20, 1, 10, 1500, 97.6, 0.2), (20, 5, 5, 1500, 99.1, 0.1),
)  # fmt: skip

RECIPES = [
    recipe(
        "relation-glyphs", PAPER, "relation network, 5-way 1-shot", data.glyphs, relation_plan,
        ways=5, shots=1, queries=19, steps=1000, quick={}, smoke={"queries": 2, "steps": 2},
    ),
    *(
        recipe(
            f"relation-omniglot-{ways}w{shots}s", PAPER, f"relation network, {ways}-way {shots}-shot", data.vinyals,
            relation_plan, published={f"{label(ways, shots)}, transductive": (accuracy, interval)},
            ways=ways, shots=shots, queries=queries, steps=1_000_000,
            quick={"steps": quick}, smoke={"queries": 2, "steps": 2},
        ) for ways, shots, queries, quick, accuracy, interval in ROWS
    ),
    *(
        recipe(
            f"relation-prototypes-omniglot-{ways}w{shots}s", PAPER,
            f"prototypical network with a relation network's encoder and steps, {ways}-way {shots}-shot", data.vinyals,
            relation_plan, ways=ways, shots=shots, queries=queries, steps=1_000_000, scored_by="prototypes",
            quick={"steps": quick}, smoke={"queries": 2, "steps": 2},
        ) for ways, shots, queries, quick, *_ in ROWS
    ),
    recipe(
        "relation-cross-entropy-omniglot-20w1s", PAPER, "relation network with the cross-entropy, 20-way 1-shot",
        data.vinyals, relation_plan, ways=20, shots=1, queries=10, steps=1_000_000, loss="cross_entropy",
        quick={"steps": 1500}, smoke={"queries": 2, "steps": 2},
    ),
]  # fmt: skip
