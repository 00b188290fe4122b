"""Transport of local features on drawings, and prototypical networks with the same encoder and as many steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import metaloop as ml

from . import data
from .plan import Plan, inductive, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Zhang et al. 2020"


def transport_plan(
    pool: Pool, *, ways: int, shots: int, queries: int, steps: int, downsample: str = "twice", width: int = 64,
    eps: float = 1.0, inner_steps: int = 20, place: float = 0.0,
    scored_by: Literal["transport", "prototypes"] = "transport",
) -> Plan:  # fmt: skip
    """As `inductive`. scored_by: "transport" of local features, or "prototypes", a prototypical
    network on the same maps, trained alike. eps, inner_steps, place: as `ml.transport` takes them."""
    features = "map" if scored_by == "transport" else "flatten"
    module = ml.nn.conv4(pool.shape, width=width, downsample=downsample, norm_policy="running", features=features)
    net, init = ml.functional(module)

    def learner(net, ways: int):
        if scored_by == "prototypes":
            return ml.protonet(net, init, ways=ways)
        return ml.transport(net, init, ways=ways, eps=eps, steps=inner_steps, place=place)

    return inductive(pool, net, learner, ways=ways, shots=shots, queries=queries, steps=steps)


def _pair(name: str, protocol: data.Protocol, shots: int, quick: int) -> list:
    """Transport, and the prototypes it is held against."""
    return [
        recipe(
            f"transport-{beside}{name}", PAPER, f"{words}, 5-way {shots}-shot", protocol, transport_plan,
            ways=5, shots=shots, queries=5, steps=20_000, scored_by=scored_by,
            quick={"steps": quick}, smoke={"queries": 2, "steps": 2, "width": 8, "inner_steps": 3},
        ) for beside, scored_by, words in (
            ("", "transport", "transport of local features"),
            ("prototypes-", "prototypes", "prototypical network with transport's encoder and steps"),
        )
    ]  # fmt: skip


RECIPES = [
    *_pair("omniglot-5w1s", data.vinyals, 1, 6000),
    *_pair("omniglot-5w5s", data.vinyals, 5, 6000),
]
