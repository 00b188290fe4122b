"""OML's two benchmarks: sine waves one after another, and a stream of new characters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from torch import nn

    from ..tasks.pool import Pool

PAPER = "Javed & White 2019"
SCHEDULE = (10, 50, 75, 100, 150, 200)  # classes learned so far, at the points of the published curve
# At test: rates, each for so many classes or more, in rising order; chosen on validation streams.
TEST_RATES = ((1, 1e-4), (50, 1.5e-4), (75, 2e-4))


def sines_plan(
    pool: Pool, *, steps: int, tasks: int, width: int = 300, depth: int = 6, shots: int,
    norm_policy: str | None = None, inner_lr: float = 0.003, lr: float = 1e-4, queries: int = 32,
) -> Plan:  # fmt: skip
    """Ten sine waves in turn, a linear head on `depth` layers of `width`. shots: points of each wave in meta-training,
    eight to an update; at test 40 updates per wave. Scored by the squared error on all ten waves after the last."""
    if not pool.target.numbers:
        raise ValueError(f"this recipe regresses waves that come one after another; {pool.name} is for {pool.kind}.")
    from torch import nn
    from torch.nn.functional import mse_loss

    body = ml.nn.mlp((*pool.shape, *[width] * depth, 1), norm_policy=norm_policy).body
    networks = *ml.functional(body), *ml.functional(nn.Linear(width, 1))

    def at_test(ways: int = 1, inner_steps: int = 1):
        return ml.oml(*networks, inner_lr=inner_lr, batch=8, loss=mse_loss)

    rows = (Row("10 waves, 40 updates of 8 points each", at_test(), 10, 320, 32, tasks=200),)
    return Plan(
        pool, at_test(), at_test, rows, steps=steps, tasks=tasks, ways=10, shots=shots, queries=queries,
        options={**_adam(lr, steps), "validation": {"ways": 10, "shots": 320, "queries": 32, "tasks": 20}},
    )  # fmt: skip


def omniglot_plan(
    pool: Pool, *, steps: int, width: int = 256, strides: Sequence[int] = (2, 1, 2, 1, 2, 2),
    norm_policy: str | None = None, inner_lr: float = 0.03, test_lr: Sequence[tuple[int, float]] = TEST_RATES,
    lr: float = 1e-4, classes: Sequence[int] = SCHEDULE, streams: int = 50,
) -> Plan:  # fmt: skip
    """Split-Omniglot: streams of 3 classes, 5 examples each, in meta-training; up to 200 new classes at test, 15
    examples each, one at a time, in one pass. test_lr: the rates of Adam without momentum there, see TEST_RATES. Rows:
    by the number of classes, the accuracy on 5 held-out examples per class, and on the stream's own ("recalled")."""
    from torch import nn

    from ..tasks.pool import Splits
    from ..tasks.streams import ClassStream

    if isinstance(pool, Splits) and not isinstance(pool.train, ClassStream):
        raise ValueError(f"this recipe learns from streams of classes, {pool.name} deals sets. Leave --data out.")
    body, dim = _convolutions(pool.shape, width, strides, norm_policy)
    networks = *ml.functional(body), *ml.functional(nn.Linear(dim, pool.train.classes or 0))

    def at_test(ways: int = 10, inner_steps: int = 1):
        _, rate = max(pair for pair in test_lr if pair[0] <= ways)
        return ml.oml(*networks, inner_lr=rate, optimizer=ml.nn.adam(beta1=0.0), anew=ways)

    again = partial(ml.tasks.omniglot_stream, again=True)
    rows = [Row(f"{n} classes", at_test(n), n, 15, 5, tasks=streams) for n in classes]
    rows += [Row(f"{n} classes, recalled", at_test(n), n, 15, 1, tasks=streams, data=again) for n in classes]
    return Plan(
        pool, ml.oml(*networks, inner_lr=inner_lr, anew="classes"), at_test, tuple(rows),
        steps=steps, tasks=1, ways=3, shots=5, queries=1,
        options={**_adam(lr, steps), "validation": {"ways": classes[0], "shots": 15, "queries": 5, "tasks": 5}},
    )  # fmt: skip


def _convolutions(
    shape: tuple[int, ...], width: int, strides: Sequence[int], policy: str | None
) -> tuple[nn.Sequential, int]:
    """3x3 convolutions of the given strides, initialised as He et al. 2015 with bias zero, each with a norm if a policy
    is given, then ReLU; how many features."""
    from torch import nn

    class He(nn.Conv2d):
        def reset_parameters(self) -> None:
            nn.init.kaiming_normal_(self.weight)
            if self.bias is not None:
                nn.init.zeros_(self.bias)

    layers: list[nn.Module] = []
    channels, *size = shape
    for stride in strides:
        layers += [He(channels, width, 3, stride=stride, padding=1)]
        layers += [ml.nn.norm(width, policy)] if policy else []
        layers += [nn.ReLU()]
        channels, size = width, [(s + stride - 1) // stride for s in size]
    return nn.Sequential(*layers, nn.Flatten()), width * size[0] * size[1]


def _adam(lr: float, steps: int) -> dict[str, Any]:
    """Adam whose rate falls to zero over the last three tenths, on gradients of norm 10 at most."""
    falling = optim.scaled(lambda step: min(1.0, (steps - step) / (0.3 * steps)))
    return {"optimizer": optim.adam(lr), "schedule": falling, "clip": 10.0}


# The quick and smoke networks have norms of single examples, which the published ones have not.
RECIPES = [
    recipe(
        "oml-sines", PAPER, "OML, ten sine waves in turn", data.sine_stream, sines_plan,
        published={"10 waves, 40 updates of 8 points each": 0.35},
        steps=300_000, tasks=1, shots=40, width=300, depth=6, norm_policy=None, inner_lr=0.003, lr=1e-4,
        quick={
            "steps": 1000, "tasks": 8, "width": 100, "depth": 5, "norm_policy": "layer", "inner_lr": 0.01, "lr": 1e-3,
            "queries": 16,
        },
        smoke={"steps": 2, "tasks": 2, "shots": 8, "width": 10, "depth": 1},
    ),
    recipe(
        "oml-omniglot", PAPER, "OML, a stream of up to 200 new characters", data.omniglot_stream, omniglot_plan,
        published={
            "10 classes": 93, "50 classes": 82, "75 classes": 81, "100 classes": 78, "150 classes": 66,
            "200 classes": 60, "10 classes, recalled": 100, "50 classes, recalled": 97, "75 classes, recalled": 96,
            "100 classes, recalled": 96.5, "150 classes, recalled": 91.5, "200 classes, recalled": 89,
        },
        steps=700_000,
        quick={
            "steps": 3500, "width": 128, "strides": (2, 2, 2, 2), "norm_policy": "group", "inner_lr": 0.01,
            "lr": 1e-3, "streams": 50,
        },
        smoke={"steps": 2, "width": 4, "strides": (2, 2, 2, 2), "classes": (2, 3), "streams": 2},
    ),
]  # fmt: skip
