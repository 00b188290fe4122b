"""Imaginary examples before prototypes, on features of a prototypical network that is trained before and fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..core import Learner
    from ..engine import Run
    from ..tasks.pool import Pool

PAPER = "Wang et al. 2018"


def imaginary_plan(
    pool: Pool, *, steps: int, features: int, ways: int = 20, test_ways: int = 20, shots: Sequence[int] = (1, 2, 5, 10),
    width: int = 64, downsample: str = "max", noise: int = 64, examples: int = 10, lr: float = 1e-3,
) -> Plan:  # fmt: skip
    """Prototypes of real and imaginary examples (PN + G) beside those of real ones alone (PN), on the same features.

    First a prototypical network is trained for `features` steps of 1-shot tasks, Adam 1e-3 halved every tenth of them,
    into RUN/features; its features are means over positions. Then it is fixed, with its population statistics, and G is
    trained on them for `steps` steps of 1 to 5 shots, Adam from lr down a cosine to 0. examples: how many a class is
    given.
    """
    from ..nn.imagination import Scale

    if not pool.pictures:
        raise ValueError(f"this recipe is for images; {pool.name} deals examples of shape {tuple(pool.shape)}.")

    def module():
        return ml.nn.conv4(pool.shape, width=width, downsample=downsample, norm_policy="running", features="mean")

    first = ml.protonet(*ml.functional(module()), ways=ways)
    embed = ml.functional(module().eval().requires_grad_(False))
    generator, scale = ml.functional(ml.nn.Hallucinator(width, noise)), ml.functional(Scale())

    def at_test(ways: int = test_ways, imagines: bool = True):
        h = ml.protonet(*scale, ways=ways)
        how = {"ways": ways, "noise": noise, "examples": examples, "imagines": imagines}
        return ml.imaginary(h, generator, embed=embed, **how)

    rows = [
        Row(f"{label(test_ways, n)}{words}", at_test(imagines=imagines), test_ways, n, 5)
        for n in shots for words, imagines in ((", imagined", True), (", real alone", False))
    ]  # fmt: skip
    return Plan(
        pool.any_shots(), at_test(ways), at_test, tuple(rows),
        steps=steps, tasks=1, ways=ways, shots=5, queries=5, more_shots=(),
        outer=on_features(first, pool, features),
        options={"optimizer": optim.adam(lr), "schedule": optim.cosine(steps)},
    )  # fmt: skip


def on_features(first: Learner, pool: Pool, steps: int) -> Callable[..., Run]:
    """`fit`, after another learner has been trained whose theta becomes this one's fixed embedding."""

    def outer(learner: Learner, whole: Pool, *, out: str | Path | None = None, **options: Any) -> Run:
        alike = {name: options[name] for name in ("seed", "device", "resume", "progress") if name in options}
        run = ml.fit(
            first, pool, steps=steps, tasks=1, ways=options["ways"], shots=1, queries=options["queries"],
            schedule=optim.halved(steps), out=None if out is None else Path(out) / "features", **alike,
        )  # fmt: skip
        found = {name: t.detach().clone() for name, t in run.theta.items()}

        def init(seed: int):
            return learner.init(seed) | {"embed": {name: ml.nn.fixed(t) for name, t in found.items()}}

        return ml.fit(replace(learner, init=init), whole, out=out, **options)

    return outer


ROWS: tuple[tuple[str, str, data.Protocol, dict[str, Any], dict[str, Any]], ...] = (
    ("imaginary-omniglot", "Omniglot", data.vinyals, {}, {"features": 500, "steps": 5000}),
    (
        "imaginary-mini-imagenet", "mini-ImageNet", data.mini_imagenet, {"ways": 10, "test_ways": 5},
        {"features": 1000, "steps": 3000, "downsample": "stride"},
    ),
)  # fmt: skip
RECIPES = [
    recipe(
        name, PAPER, f"imaginary examples before prototypes, {words}", protocol, imaginary_plan,
        features=2000, steps=50_000, quick=quick,
        smoke={"features": 2, "steps": 2, "width": 4, "noise": 3, "ways": 5, "test_ways": 5, "shots": (1,)}, **settings,
    ) for name, words, protocol, settings, quick in ROWS
]  # fmt: skip
