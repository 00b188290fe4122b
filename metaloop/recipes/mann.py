"""Characters presented again and again, learned by the memory of a recurrent network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from torch import Tensor

    from ..tasks.pool import Pool


def mann_plan(
    pool: Pool, *, steps: int, network: Literal["memory", "lstm"] = "memory", hidden: int = 200, slots: int = 128,
    width: int = 40, heads: int = 4, order: str = "write", write: str = "add", ways: int = 5, shots: int = 10,
    tasks: int = 16, lr: float = 1e-3, counted: Sequence[int] = (1, 2, 3, 4, 5, 10),
) -> Plan:  # fmt: skip
    """MANN on `ways` classes of `shots` presentations, each prediction scored; Adam at lr, a tenth of it in the last
    third; gradients clipped at norm 10. network: "memory", or "lstm", which has none. A row for each of the
    presentations that are counted."""
    if not pool.pictures:
        raise ValueError(f"this recipe tells pictures apart; {pool.name} is for {pool.kind} of {pool.shape}.")
    size = pool.shape[0] * pool.shape[1] * pool.shape[2] + ways
    if network == "lstm":
        net = ml.nn.Recurrent(size, hidden, ways)
    else:
        net = ml.nn.Memory(size, hidden, ways, ml.nn.LeastUsed(hidden, slots, width, heads, order=order, write=write))
    both = ml.functional(net)

    def F_theta(along: bool = False):
        return ml.mann(*both, ways=ways, along=along)

    again = lambda: ml.tasks.presentations(pool)
    rows = [Row(label(ways, 1), F_theta(), ways, 1, 1)]
    rows += [
        Row(f"presentation {k}", F_theta(along=True), ways, shots, shots, metric=counting(k, ways), data=again)
        for k in counted
    ]
    return Plan(
        pool, F_theta(), lambda ways=ways: F_theta(), tuple(rows), steps=steps, tasks=tasks, ways=ways, shots=shots,
        queries=1, more_shots=(1, 2, 3, 5, shots),
        options={
            "optimizer": optim.adam(lr), "clip": 10.0, "chunk": tasks,  # each of whose steps is small
            "schedule": optim.scaled(lambda step: 1.0 if 3 * step < 2 * steps else 0.1),
        },
    )  # fmt: skip


def counting(k: int, ways: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The accuracy of predictions [tasks, n, ways] at each class's k-th presentation in y [tasks, n]: [tasks]."""
    from ..learners.mann import at, presentation

    def accuracy(predicted: Tensor, y: Tensor) -> Tensor:
        return at(predicted.argmax(-1) == y, presentation(y, ways) == k)

    return accuracy


# The paper's figures, by presentation; its LSTM is weaker than those of others.
MANN = {1: 36.4, 2: 82.8, 3: 91.0, 4: 92.6, 5: 94.9, 10: 98.1}
LSTM = {1: 24.4, 2: 49.5, 3: 55.3, 4: 61.0, 5: 63.6, 10: 62.5}
SMOKE = {"steps": 2, "tasks": 2, "hidden": 8, "slots": 6, "width": 4, "heads": 2, "shots": 2, "counted": (1, 2)}
RECIPES = [
    replace(recipe(
        name, "Santoro et al. 2016", summary, data.small_characters, mann_plan,
        published={f"presentation {k}": told for k, told in figures.items()}, steps=10_000,
        quick={"steps": 3000}, smoke=SMOKE, **settings,
    ), baseline=figures is LSTM) for name, summary, figures, settings in (
        ("mann-omniglot", "MANN, characters presented ten times", MANN, {}),
        ("mann-omniglot-key", "the same, keys are what is written", {}, {"write": "key"}),
        ("mann-omniglot-address", "the same, addressed before it is written", {}, {"order": "address"}),
        ("mann-omniglot-lstm", "the same, an LSTM without a memory", LSTM, {"network": "lstm"}),
    )
]  # fmt: skip
