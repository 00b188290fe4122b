"""Proto-MAML on drawings and photographs, by MAML's protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Triantafillou et al. 2020"


def proto_maml_plan(
    pool: Pool, *, ways: int, shots: int, steps: int, tasks: int, inner_lr: float = 0.1, inner_steps: int = 1,
    test_steps: int = 3, first_order: bool = False, width: int = 64, downsample: str = "stride",
    queries: int | None = None,
) -> Plan:  # fmt: skip
    """Proto-MAML on MAML's network without its last layer, trained and tested as MAML's rows are: as many queries as
    shots, transductive batch norm, Adam 1e-3."""
    features = "mean" if downsample == "stride" else "flatten"
    net, init = ml.functional(ml.nn.conv4(pool.shape, width=width, downsample=downsample, features=features))
    settings: dict[str, Any] = {"inner_lr": inner_lr, "first_order": first_order}

    def at_test(ways: int = ways, inner_steps: int = test_steps):
        return ml.proto_maml(net, init, ways=ways, inner_steps=inner_steps, **settings)

    queries = queries or shots
    return Plan(
        pool, at_test(inner_steps=inner_steps), at_test, (Row(label(ways, shots), at_test(), ways, shots, queries),),
        steps=steps, tasks=tasks, ways=ways, shots=shots, queries=queries, inner_steps=(0, 1, 3, 5, 10),
    )  # fmt: skip


# The paper's rows are of several data sets, of any number of ways and shots: no figure of it stands beside these.
RECIPES = [
    recipe(
        "proto-maml-glyphs", PAPER, "Proto-MAML, 5-way 1-shot", data.glyphs, proto_maml_plan,
        ways=5, shots=1, steps=1500, tasks=16, width=32, queries=5, quick={}, smoke={"steps": 3, "tasks": 2},
    ),
    recipe(
        "proto-maml-mini-imagenet-5w1s", PAPER, "Proto-MAML, 5-way 1-shot, mini-ImageNet", data.mini_imagenet,
        proto_maml_plan, ways=5, shots=1, steps=60_000, tasks=4, inner_lr=0.01, inner_steps=5, test_steps=10, width=32,
        downsample="max", queries=15, quick={"steps": 300}, smoke={"steps": 2, "tasks": 1, "queries": 1},
    ),
    *(
        recipe(
            f"proto-maml-omniglot-{ways}w1s", PAPER, f"Proto-MAML, {ways}-way 1-shot", data.turned_by_task,
            proto_maml_plan, ways=ways, shots=1, steps=60_000, **many, quick={"steps": 1000},
            smoke={"steps": 3, "tasks": 2},
        ) for ways, many in ((5, {"tasks": 32}), (20, {"tasks": 16, "inner_steps": 5, "test_steps": 5}))
    ),
]  # fmt: skip
