"""Sequences of bits, said again by a network with a memory, or by one without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool


def ntm_plan(
    pool: Pool, *, steps: int, marks: int, shots: int, test_shots: Sequence[int], words: str,
    network: Literal["tape", "lstm"] = "tape",
    hidden: int = 100, layers: int = 3, slots: int = 128, width: int = 20, tasks: int = 16, lr: float = 1e-3,
) -> Plan:  # fmt: skip
    """Sequences of 1 to `shots` parts, a number drawn for each meta-batch; Adam at lr; gradients clipped at norm 10.
    marks: channels that hold no bits. network: "tape", an LSTM of `hidden` with a memory, or "lstm", `layers` of it
    without. A row for each of test_shots, in bits per sequence."""
    if not pool.target.numbers or len(pool.shape) != 1 or pool.shape[0] <= marks:
        raise ValueError(f"this recipe says sequences of bits again; {pool.name} is for {pool.kind} of {pool.shape}.")
    size, bits = pool.shape[0], pool.shape[0] - marks
    if network == "lstm":
        net = ml.nn.Recurrent(size, hidden, bits, layers)
    else:
        net = ml.nn.Memory(size, hidden, bits, ml.nn.Tape(hidden, slots, width))
    learner = ml.ntm(*ml.functional(net))
    rows = tuple(Row(words.format(n), learner, 1, n, n) for n in test_shots)
    return Plan(
        pool.any_shots(), learner, lambda ways=1: learner, rows, steps=steps, tasks=tasks, ways=1, shots=shots,
        queries=shots, more_shots=tuple(sorted({*test_shots, 1, 2, 3})),
        options={"optimizer": optim.adam(lr), "clip": 10.0, "chunk": tasks},  # each of whose steps is small
    )


# The paper's figures are drawings, so none stands beside.
COPY = {"marks": 1, "shots": 20, "test_shots": (20, 10, 40, 80), "words": "{} vectors"}
RECALL = {"marks": 2, "shots": 5, "test_shots": (5, 1, 2, 3, 4), "words": "{} pairs of neighbours"}
WITHOUT = {"network": "lstm", "hidden": 256}
SMALL = {"steps": 2, "tasks": 2, "hidden": 8, "layers": 1, "width": 4}
RECIPES = [
    recipe(
        name, "Graves et al. 2014", summary, pool, ntm_plan, steps=20_000, quick={"steps": quick}, smoke=smoke,
        **task, **network,
    ) for name, summary, pool, task, network, quick, smoke in (
        ("ntm-copy", "NTM, a sequence said again", data.copy, COPY, {}, 9000, {**SMALL, "test_shots": (3,)}),
        ("ntm-copy-lstm", "the same, an LSTM without a memory", data.copy, COPY, WITHOUT, 4000,
         {**SMALL, "test_shots": (3,)}),
        ("ntm-recall", "NTM, what came after an item", data.associative_recall, RECALL, {}, 8000,
         {**SMALL, "test_shots": (2,)}),
        ("ntm-recall-lstm", "the same, an LSTM without a memory", data.associative_recall, RECALL, WITHOUT, 3500,
         {**SMALL, "test_shots": (2,)}),
    )
]  # fmt: skip
