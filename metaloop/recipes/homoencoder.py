"""The Variational Homoencoder on drawings of two colours, beside what it is made of: its own ablation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import data, optim
from .neural_statistician import COMPONENTS, networks
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..core import Learner
    from ..engine import Run
    from ..learners.neural_statistician import Part
    from ..tasks.pool import Pool

PAPER = "Hewitt et al. 2018"
GATED, CODES = "Salimans et al. 2017", "Razavi et al. 2019"


def homoencoder_plan(
    pool: Pool, *, steps: int, class_size: float | None = 20, decodes: str = "query", decoder: str = "perceptron",
    tests: Sequence[Sequence[int]] = ((5, 1), (20, 1), (20, 5)), sets: int = 16, shots: int = 5, c: int = 64,
    z: int = 16, hidden: int = 256, layers: int = 1, widths: Sequence[int] = (32, 64, 128), depth: int = 1,
    lr: float = 2e-3, levels: int = 2, gated: Sequence[int] = (16, 2),
) -> Plan:  # fmt: skip
    """A homoencoder: 16 classes a step, c inferred from 1 to 5 drawings and judged by five others of the class
    (decodes="query") or by all of these five ("support"); Adam at lr, falling to 0 over the second half; scored by the
    divergence between statistics. decoder: "perceptron", "convolutions", "masked" or "gated", PixelCNN++'s of (width,
    blocks). levels: of grey; beyond two the perceptron's pixels are mixtures of logistics. Rows: (ways, shots) each."""
    if not pool.pictures:
        raise ValueError(f"this recipe is for images; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    if levels > 2 and decoder not in ("perceptron", "gated"):
        raise ValueError(f"homoencoder: decoder {decoder!r} draws in two colours; for levels={levels} take 'gated'.")
    sets = min(sets, pool.train.classes or sets)
    (encoder, init), *others = networks(
        pool.shape, c=c, z=z, hidden=hidden, layers=layers, widths=widths, depth=depth, decoder=decoder,
        levels=levels, gated=(gated[0], gated[1]),
    )
    how: dict[str, Any] = {"class_size": class_size, "decodes": decodes}
    plain = ml.nn.Bernoulli if levels == 2 else ml.nn.grey(levels, COMPONENTS)
    how["likelihood"] = {"masked": ml.nn.CausalBernoulli, "gated": ml.nn.Density}.get(decoder, plain)

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


def codes_plan(
    pool: Pool, *, steps: int, coding: int, symbols: int = 64, dim: int = 8, level_width: int = 32, width: int = 24,
    blocks: int = 2, tests: Sequence[Sequence[int]] = ((5, 5), (20, 5)), sets: int = 16, shots: int = 5, c: int = 64,
    hidden: int = 256, layers: int = 1, widths: Sequence[int] = (32, 64, 128), depth: int = 1, lr: float = 1e-3,
) -> Plan:  # fmt: skip
    """VQ-VAE-2 whose prior over symbols is what a set of drawings adapts, by c.

    First two levels of symbols are trained for `coding` steps by the loss of `metaloop.nn.quantize`, Adam 1e-3, into
    RUN/codes; then they are fixed, and a homoencoder without z is trained whose decoder is the prior, of `width` and
    `blocks`, given c: Adam at lr, falling to 0 over the second half. Scored by the divergence between statistics."""
    if not pool.pictures:
        raise ValueError(f"this recipe is for images; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    sets = min(sets, pool.train.classes or sets)
    (encoder, init), statistic = networks(
        pool.shape, c=c, z=1, hidden=hidden, layers=layers, widths=widths, depth=depth, decoder="perceptron"
    )[:2]
    levels = ml.nn.TwoLevels(pool.shape, symbols=symbols, dim=dim, width=level_width)
    nothing = ml.functional(ml.nn.Nothing())
    prior = ml.functional(ml.nn.CodeDensity(c, levels, width=width, depth=blocks))

    def learner(ways: int, net: Any, **other: Any):
        how = {"class_size": 20, "likelihood": ml.nn.Density, **other}
        return ml.homoencoder((net, init), statistic, nothing, nothing, prior, ways=ways, **how)

    def at_test(ways: int = 5, **other: Any):
        return learner(ways, encoder.eval(), **other)

    coder = ml.functional(ml.nn.TwoLevels(pool.shape, symbols=symbols, dim=dim, width=level_width))
    return Plan(
        pool, learner(sets, encoder), at_test,
        tuple(Row(label(n, k), at_test(n), n, k, 15) for n, k in tests),
        steps=steps, tasks=1, ways=sets, shots=shots, queries=shots, more_shots=(),
        outer=on_codes(coder, pool, coding, sets),
        options={
            "clip": 100.0, "optimizer": optim.adam(lr),
            "schedule": optim.scaled(lambda step: min(1.0, 2 - 2 * step / steps)),
        },
    )  # fmt: skip


def on_codes(coder: Part, pool: Pool, steps: int, ways: int) -> Callable[..., Run]:
    """`fit`, after two levels of symbols have been trained, which become the decoder's and stay."""
    net, start = coder

    def adapt(theta, S):
        """The class whose mean picture, as drawn from symbols, is nearest: what `fit` can judge along the way."""
        drawn = lambda x: net(theta, x)[0].flatten(1)
        means, _ = ml.nn.class_mean(drawn(S.x), S.y, ways)
        return lambda x: -(drawn(x)[:, None] - means).square().sum(-1)

    def objective(adapt, theta, task):
        return net(theta, task.support.x)[1], {}

    first = ml.Learner(start, adapt, objective, differentiates=False)

    def outer(learner: Learner, whole: Pool, *, out: str | Path | None = None, **options: Any) -> Run:
        alike = {name: options[name] for name in ("seed", "device", "resume", "progress") if name in options}
        episode = {name: options[name] for name in ("ways", "shots", "queries")}
        run = ml.fit(
            first, pool, steps=steps, tasks=1, **episode, optimizer=optim.adam(1e-3),
            schedule=optim.scaled(lambda step: min(1.0, 2 - 2 * step / steps)),
            out=None if out is None else Path(out) / "codes", **alike,
        )  # fmt: skip
        found = {f"levels.{name}": t.detach().clone() for name, t in run.theta.items()}

        def init(seed: int):
            theta = learner.init(seed)
            return theta | {"decoder": theta["decoder"] | {name: ml.nn.fixed(t) for name, t in found.items()}}

        return ml.fit(replace(learner, init=init), whole, out=out, **options)

    return outer


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
] + [
    recipe(
        f"homoencoder-{name}omniglot{ending}", paper, f"Variational Homoencoder, {decoder} decoder: {words}", protocol,
        homoencoder_plan, decoder=decoder, levels=levels, steps=100_000, quick={"steps": quick},
        smoke={"steps": 3, "widths": (4, 4, 4), "hidden": 16, "c": 4, "sets": 4, "tests": ((5, 1),), "gated": (2, 1)},
    ) for name, ending, paper, decoder, levels, words, protocol, quick in (
        ("", "-gated", GATED, "gated", 2, "pixel by pixel as PixelCNN++", data.of_two_colours, 1500),
        ("grey-", "", PAPER, "perceptron", 16, "16 greys, pixels by themselves", data.upright_at_test, 4000),
        ("grey-", "-gated", GATED, "gated", 16, "16 greys, pixel by pixel as PixelCNN++", data.upright_at_test, 1500),
    )
] + [
    recipe(
        "homoencoder-omniglot-codes", CODES, "VQ-VAE-2, the prior over symbols adapted to a set", data.of_two_colours,
        codes_plan, coding=20_000, steps=100_000, quick={"coding": 2000, "steps": 2000},
        smoke={
            "coding": 2, "steps": 2, "symbols": 4, "dim": 3, "level_width": 4, "width": 4, "blocks": 1, "c": 4,
            "sets": 4, "widths": (4, 4, 4), "hidden": 16, "tests": ((5, 5),),
        },
    )
]  # fmt: skip
