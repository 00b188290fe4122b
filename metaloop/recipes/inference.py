"""Clouds of points whose centres are inferred: exactly, by descent for each cloud, or by one network for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Shu et al. 2018"


def inference_plan(
    pool: Pool, *, steps: int, infer: Literal["exact", "descent", "amortised"] = "amortised", causes: int = 2,
    hidden: int = 32, inner_steps: int = 100, inner_lr: float = 0.2, tasks: int = 16, lr: float = 1e-2,
) -> Plan:  # fmt: skip
    """Points in few dimensions: 5 sets of 5 points a task, the bound of their log-density, Adam from lr down a cosine
    to 0; the densest set decides. hidden: units of both layers of the encoder. inner_steps, inner_lr: of descent, whose
    steps the gradient of theta goes through."""
    if len(pool.shape) != 1:
        raise ValueError(f"this recipe is for points; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    (dim,) = pool.shape
    amortised = infer == "amortised"
    encoder = ml.functional(ml.nn.mlp((dim + 1, hidden, hidden, 2 * causes))) if amortised else None

    def at_test(ways: int = 5, inner_steps: int = inner_steps):
        how = {"encoder": encoder, "inner_steps": inner_steps, "inner_lr": inner_lr}
        return ml.inference(dim, causes, ways=ways, infer=infer, **how)

    return Plan(
        pool, at_test(), at_test, tuple(Row(label(5, k), at_test(), 5, k, 15) for k in (1, 5)),
        steps=steps, tasks=tasks, ways=5, shots=5, queries=1,
        options={"optimizer": optim.adam(lr), "schedule": optim.cosine(steps)},
    )  # fmt: skip


RECIPES = [
    recipe(
        f"inference-gaussians-{infer}", PAPER, f"clouds, their centres inferred {words}", data.gaussians,
        inference_plan, infer=infer, steps=3000, quick={"steps": 500}, smoke={"steps": 3, "inner_steps": 3},
    ) for infer, words in (
        ("exact", "in closed form"), ("descent", "by descent for each"), ("amortised", "by one network"),
    )
]  # fmt: skip
