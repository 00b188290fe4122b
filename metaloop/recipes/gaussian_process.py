"""Infinitely wide networks on drawings: nothing is trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import metaloop as ml

from . import data
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Novak et al. 2019"
KINDS = {"pooled": "pooled", "local": "convolutional", "dense": "fully connected"}


def gaussian_process_plan(
    pool: Pool, *, ways: int, shots: int, steps: int = 0, depth: int = 2, noise: float = 1e-4, bias: float = 1e-4,
    queries: int = 5, most: int = 200,
) -> Plan:  # fmt: skip
    """Three kernels on the same tasks: of pooled, of convolutional (or locally connected) and of fully connected
    networks of `depth` hidden layers. steps: of training the kernel's variances; 0 as published. most: tasks tested
    at most, as the pooled kernel of 14 x 14 pixels takes 38 416 numbers for each pair of pictures."""

    def learner(kind: str, ways: int):
        return ml.gaussian_process(ml.nn.infinite(kind, depth=depth), ways=ways, noise=noise, bias=bias)

    def at_test(ways: int = ways):
        return learner("pooled", ways)

    rows = [Row(f"{label(ways, shots)}, {words}", learner(kind, ways), ways, shots, queries, tasks=most)
            for kind, words in KINDS.items()]  # fmt: skip
    return Plan(
        pool, at_test(), at_test, tuple(rows), steps=steps, tasks=1, ways=ways, shots=shots, queries=1, more_shots=(),
    )  # fmt: skip


RECIPES = [
    recipe(
        "gaussian-process-omniglot-5w1s", PAPER, "infinitely wide networks, untrained, 5-way 1-shot",
        data.tiny_characters, gaussian_process_plan, ways=5, shots=1, steps=0,
        quick={}, smoke={"depth": 1, "queries": 1},
    ),
]  # fmt: skip
