"""The Neural Statistician: densities of sets of drawings, and of points on the line."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

import metaloop as ml

from . import data, optim
from .plan import Plan, Row, label, recipe

if TYPE_CHECKING:
    from ..learners.neural_statistician import Part
    from ..tasks.pool import Pool

PAPER = "Edwards & Storkey 2017"
FLOWS = "Chen et al. 2019"
COMPONENTS = 3  # of a mixture of logistics


def drawings_plan(
    pool: Pool, *, tests: Sequence[Sequence[int]] = ((5, 1), (5, 5), (20, 1), (20, 5)),
    transfer: Sequence[int] = (1, 5), steps: int, sets: int = 16, shots: int = 5, c: int = 512, z: int = 16,
    hidden: int = 256, layers: int = 3, widths: Sequence[int] = (64, 128, 256), depth: int = 3,
    decoder: Literal["convolutions", "perceptron"] = "convolutions", pens: bool = True, lr: float = 1e-3,
    decay: bool = False,
) -> Plan:  # fmt: skip
    """The Neural Statistician as published on Omniglot: 16 sets of 5 drawings a step, rotated and mirrored characters
    as classes, random pens, sample dropout, Adam 1e-3; scored by the divergence between statistics.

    pens: mirrored characters and random pens. decay: the rate falls to 0, linearly over the second half of the run.
    tests: (ways, shots) of each row. transfer: shots of the rows on all ten digits of MNIST, which no training has
    seen.
    """
    if not pool.pictures:
        raise ValueError(f"this recipe is for images; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    sets = min(sets, pool.train.classes or sets)
    (encoder, init), *others = networks(
        pool.shape, c=c, z=z, hidden=hidden, layers=layers, widths=widths, depth=depth, decoder=decoder
    )

    def at_test(ways: int = 5):
        return ml.neural_statistician((encoder.eval(), init), *others, ways=ways)

    rows = [Row(label(n, k), at_test(n), n, k, 15) for n, k in tests]
    rows += [Row(f"{label(10, k)}, MNIST", at_test(10), 10, k, 15, data=ml.tasks.mnist) for k in transfer]
    pens = pens and pool.shape[0] == 1 and pool.shape[1] == pool.shape[2]
    return Plan(
        ml.tasks.Varied(pool, ml.tasks.strokes) if pens else pool,
        ml.neural_statistician((encoder, init), *others, ways=sets), at_test,
        tuple(rows), steps=steps, tasks=1, ways=sets, shots=shots, queries=1,
        options={
            "clip": 100.0, "optimizer": optim.adam(lr),
            "schedule": optim.scaled(lambda step: min(1.0, 2 - 2 * step / steps) if decay else 1.0),
        },
    )  # fmt: skip


def networks(
    shape: tuple[int, ...], *, c: int, z: int, hidden: int, layers: int, widths: Sequence[int], depth: int,
    decoder: str, levels: int = 2, gated: tuple[int, int] = (16, 2),
) -> list[Part]:  # fmt: skip
    """Encoder, statistic, posterior, prior and decoder for drawings. decoder: "convolutions", "perceptron", or one that
    reads what it has drawn, "masked" or "gated" (width, blocks). levels: of grey, which "convolutions" and "masked" do
    not count."""
    from torch import nn

    inner, mlp, components = [hidden] * layers, ml.nn.mlp, 1 if levels == 2 else COMPONENTS
    if decoder == "masked":
        last = ml.nn.Masked(z + c, shape)
    elif decoder == "gated":
        width, blocks = gated
        last = ml.nn.CausalImage(z + c, shape, levels=levels, components=components, width=width, depth=blocks)
    elif levels > 2:
        *rows, columns = shape
        each = 3 * components
        last = nn.Sequential(
            mlp((z + c, hidden, 2 * hidden, each * prod(shape))), ml.nn.Shaped(*rows, columns * each)
        )
    elif decoder == "convolutions":
        last = ml.nn.conv_decoder(z + c, shape, widths=widths, depth=depth)
    else:
        last = nn.Sequential(mlp((z + c, hidden, 2 * hidden, prod(shape))), ml.nn.Shaped(*shape))
    modules = (
        ml.nn.conv_encoder(shape, hidden, widths=widths, depth=depth, norm_policy="running"),
        mlp((hidden + 1, *inner[1:], 2 * c), norm_policy="layer"),
        mlp((hidden + c, *inner, 2 * z), norm_policy="layer"),
        mlp((c, *inner, 2 * z), norm_policy="layer"),
        last,
    )
    return [ml.functional(module) for module in modules]


def distributions_plan(
    pool: Pool, *, steps: int, tasks: int = 16, shots: int = 200, c: int = 3, z: int = 32, hidden: int = 128,
    decoder: Literal["gaussian", "flow"] = "gaussian", blocks: int = 6, contraction: float = 0.9,
    lr: float = 1e-3,
) -> Plan:  # fmt: skip
    """The Neural Statistician as published on synthetic distributions: sets of 200 points, statistics of size 3, Adam
    at lr, 16 sets a step; scored by how far the density it infers from 200 points is from the true one.

    decoder: "gaussian", given z and c, as published, or "flow": a residual flow of `blocks`, given c alone, whose
    p(x|c) is exact."""
    if not pool.target.numbers or tuple(pool.shape) not in ((1,), (2,)):
        raise ValueError(f"this recipe is for densities of the line or plane; {pool.name} is for {pool.kind}.")
    from ..targets import excess_nats

    inner, (dim,), flow = [hidden] * 3, pool.shape, decoder == "flow"
    sizes = [(dim, *inner), (hidden + 1, *inner, 2 * c)]
    sizes += [] if flow else [(hidden + c, *inner, 2 * z), (c, *inner, 2 * z), (z + c, *inner, 2 * dim)]
    parts = [ml.functional(ml.nn.mlp(size)) for size in sizes]
    if flow:
        last = ml.nn.ResidualFlow(c, dim, blocks=blocks, hidden=hidden // 2, contraction=contraction)
        parts += [ml.functional(ml.nn.Nothing()), ml.functional(ml.nn.Nothing()), ml.functional(last)]

    def at_test(ways: int = 1, by_density: bool = True):
        return ml.neural_statistician(
            *parts, ways=ways, likelihood=ml.nn.Density if flow else ml.nn.Gaussian, by_density=by_density,
            sample_dropout=False,
        )

    rows = (Row(f"{shots} points", at_test(), 1, shots, 100, metric=excess_nats),)
    return Plan(
        pool, at_test(), at_test, rows, steps=steps, tasks=tasks, ways=1, shots=shots, queries=1,
        options={"clip": 100.0, "optimizer": optim.adam(lr)}, more_shots=(10, 50, 100),
    )  # fmt: skip


SMALL = {"c": 64, "layers": 1, "widths": (32, 64, 128), "depth": 1, "decoder": "perceptron"}
RECIPES = [
    recipe(
        "statistician-omniglot", PAPER, "Neural Statistician, sets of 5, without labels", data.upright_at_test,
        drawings_plan, steps=360_000,
        published={
            "5-way 1-shot": 98.1, "5-way 5-shot": 99.5, "20-way 1-shot": 93.2, "20-way 5-shot": 98.1,
            "10-way 1-shot, MNIST": 78.6, "10-way 5-shot, MNIST": 93.2,
        },
        quick={"steps": 6000, "lr": 2e-3, "decay": True, **SMALL},
        smoke={"steps": 3, **SMALL, "widths": (4, 4, 4), "pens": False},
    ),
    recipe(
        "statistician-distributions", PAPER, "Neural Statistician, densities from 200 points", data.distributions,
        distributions_plan, steps=31_250, quick={"steps": 5000, "z": 4, "hidden": 64}, smoke={"steps": 3, "tasks": 2},
    ),
    *(
        recipe(
            f"statistician-planar{ending}", paper, f"Neural Statistician, densities of the plane, {words}", data.planar,
            distributions_plan, decoder=decoder, c=16, hidden=64, shots=50, steps=20_000,
            lr=3e-3, quick={"steps": 4000, "z": 8},
            smoke={"steps": 2, "tasks": 2, "shots": 5, "hidden": 4, "blocks": 1},
        ) for ending, paper, words, decoder in (
            ("", PAPER, "normals of z and c", "gaussian"), ("-flow", FLOWS, "a residual flow of c", "flow"),
        )
    ),
]  # fmt: skip
