"""Rainbow-MNIST, tasks one after another: the meta-leader, and what it is held against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool


def follow_leader_plan(
    pool: Pool, *, method: Literal["leader", "everything", "fine-tuned", "scratch"],
    steps: int, updates: int, arrivals: Sequence[int], tasks: int = 25, shots: int = 10,
    width: int = 32, inner_lr: float = 0.1, inner_steps: int = 5, test_steps: int = 5, lr: float = 1e-3,
) -> Plan:  # fmt: skip
    """A task after another. method: "leader" (the paper's FTML: MAML's initialisation is followed), "everything"
    (ordinary training on all data seen), "fine-tuned" (the same, then descent on the task), "scratch" (descent on the
    task alone). A step is an arrival of data; all methods know the same of each task."""
    from torch.nn.functional import cross_entropy

    net, init = ml.functional(ml.nn.conv4(pool.shape, out=10, width=width, downsample="stride"))
    loss = partial(cross_entropy, label_smoothing=0.1)
    F_theta = partial(ml.maml, net, init, inner_lr=inner_lr, loss=loss)
    joint = replace(F_theta(inner_steps=0), differentiates=False)
    learner = F_theta(inner_steps=inner_steps) if method == "leader" else joint

    def at_test(ways: int = 10, inner_steps: int = test_steps):
        if method == "leader":
            return F_theta(inner_steps=inner_steps)
        if method == "everything":
            return joint
        return ml.reptile(
            net, init, inner_lr=lr, inner_steps=inner_steps, batch=25, optimizer=ml.nn.adam(), loss=loss
        )

    return Plan(
        pool, learner, at_test, (Row("10 digits, 10 shots, after all rounds", at_test(), 10, 10, 15),),
        steps=steps, tasks=tasks, ways=10, shots=shots, queries=shots, inner_steps=(1, 2, 5, 10),
        outer=ml.follow_leader,
        options={
            "updates": 0 if method == "scratch" else updates, "arrivals": tuple(arrivals), "optimizer": optim.adam(lr),
        },
    )  # fmt: skip


# The figures of the paper are drawings, so none stands beside.
RECIPES = [
    recipe(
        f"{name}-rainbow-mnist", "Finn et al. 2019", summary, data.rainbow_mnist, follow_leader_plan,
        method=method, arrivals=range(20, 901, 20), steps=56 * 45, updates=50, test_steps=descent,
        quick={
            "arrivals": (20, 50, 100, 200, 400, 900), "steps": 56 * 6, "updates": 20, "width": 16, "tasks": 10,
            "inner_steps": 1,
        },
        smoke={
            "arrivals": (20, 40), "steps": 5, "updates": 1, "width": 4, "tasks": 2, "inner_steps": 1, "test_steps": 1,
        },
    ) for method, descent, name, summary in (
        ("leader", 5, "follow-leader", "MAML follows the meta-leader through 56 tasks"),
        ("everything", 0, "everything", "ordinary training on all data of 56 tasks so far"),
        ("fine-tuned", 200, "everything-fine-tuned", "the same, fine-tuned on each task"),
        ("scratch", 200, "scratch", "each of 56 tasks learned from scratch"),
    )
]  # fmt: skip
