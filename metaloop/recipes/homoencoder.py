"""The Variational Homoencoder on drawings of two colours, beside what it is made of: its own ablation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, optim
from .neural_statistician import networks
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..tasks.pool import Pool

PAPER = "Hewitt et al. 2018"


def homoencoder_plan(
    pool: Pool, *, steps: int, class_size: float | None = 20, decodes: str = "query", decoder: str = "perceptron",
    tests: Sequence[Sequence[int]] = ((5, 1), (20, 1), (20, 5)), sets: int = 16, shots: int = 5, c: int = 64,
    z: int = 16, hidden: int = 256, layers: int = 1, widths: Sequence[int] = (32, 64, 128), depth: int = 1,
    lr: float = 2e-3,
) -> Plan:  # fmt: skip
    """A homoencoder: 16 classes a step, c inferred from 1 to 5 drawings and judged by five others of the class
    (decodes="query") or by all of these five ("support"); Adam at lr, falling to 0 over the second half; scored by the
    divergence between statistics. decoder: "perceptron", "convolutions" or "masked". Rows: (ways, shots) each."""
    if not pool.pictures:
        raise ValueError(f"this recipe is for images; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    sets = min(sets, pool.train.classes or sets)
    (encoder, init), *others = networks(
        pool.shape, c=c, z=z, hidden=hidden, layers=layers, widths=widths, depth=depth, decoder=decoder
    )
    how: dict[str, Any] = {"class_size": class_size, "decodes": decodes}
    how["likelihood"] = ml.nn.CausalBernoulli if decoder == "masked" else ml.nn.Bernoulli

    def at_test(ways: int = 5, **other: Any):
        return ml.homoencoder((encoder.eval(), init), *others, ways=ways, **{**how, **other})

    return Plan(
        pool, ml.homoencoder((encoder, init), *others, ways=sets, **how), at_test,
        tuple(Row(label(n, k), at_test(n), n, k, 15) for n, k in tests),
        steps=steps, tasks=1, ways=sets, shots=shots, queries=shots if decodes == "query" else 1,
        options={
            "clip": 100.0, "optimizer": optim.adam(lr),
            "schedule": optim.scaled(lambda step: min(1.0, 2 - 2 * step / steps)),
        },
    )  # fmt: skip


# What each step of the way from the Statistician adds: a recipe's middle name, what it is, and the settings of it.
ABLATION: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("", "c paid for once in 20, judged by other drawings", {}),
    ("statistician-", "the same networks under the Statistician's bound", {"decodes": "support", "class_size": None}),
    ("whole-", "c paid for by each drawing", {"class_size": 1}),
    ("seen-", "c judged by the drawings that it is inferred from", {"decodes": "support"}),
)
DECODERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("", "perceptron", {"steps": 8000}), ("-masked", "masked", {"steps": 4000}),
)  # fmt: skip
RECIPES = [
    recipe(
        f"homoencoder-{name}omniglot{ending}", PAPER, f"Variational Homoencoder, {decoder} decoder: {words}",
        data.of_two_colours, homoencoder_plan, decoder=decoder, steps=100_000, quick=quick,
        smoke={"steps": 3, "widths": (4, 4, 4), "hidden": 16, "c": 4, "sets": 4, "tests": ((5, 1),)}, **settings,
    ) for ending, decoder, quick in DECODERS for name, words, settings in ABLATION
]  # fmt: skip
