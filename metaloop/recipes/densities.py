"""Densities of sets: the Neural Statistician on drawings, and on distributions of the line."""

from math import prod

import torch
from torch import nn

from ..learners.neural_statistician import neural_statistician
from ..nn import Gaussian, Shaped, conv_decoder, conv_encoder, functional, mlp
from ..targets import Numbers, excess_nats
from ..tasks import Varied, mnist, strokes
from ..tasks.pool import Pool
from .few_shot import label
from .plan import Plan, Row


def statistician_plan(
    pool: Pool, *, published: dict[tuple[int, int], float | None], transfer: dict[int, float | None] | None = None,
    steps: int, sets: int = 16, shots: int = 5, c: int = 512, z: int = 16, hidden: int = 256, layers: int = 3,
    widths: tuple[int, ...] = (64, 128, 256), depth: int = 3, decoder: str = "convolutions", pens: bool = True,
    lr: float = 1e-3, decay: bool = False,
) -> Plan:  # fmt: skip
    """The Neural Statistician as published on Omniglot: 16 sets of 5 drawings a step, rotated and mirrored characters
    as classes, random pens, sample dropout, Adam 1e-3; scored by the divergence between statistics.

    pens: mirrored characters and random pens. decay: the rate falls to 0, linearly over the second half of the run.
    published: by (ways, shots). transfer: by shots, of all ten digits of MNIST, which no training has seen.
    """
    if not pool.pictures:
        raise ValueError(f"this recipe is for images; {pool.name} deals examples of shape {tuple(pool.shape)}.")
    sets = min(sets, pool.train.classes or sets)
    encoder, init = functional(conv_encoder(pool.shape, hidden, widths=widths, depth=depth, norm_policy="running"))
    inner = [hidden] * layers
    others = [
        functional(module) for module in (
            mlp((hidden + 1, *inner[1:], 2 * c), norm_policy="layer"),
            mlp((hidden + c, *inner, 2 * z), norm_policy="layer"),
            mlp((c, *inner, 2 * z), norm_policy="layer"),
            conv_decoder(z + c, pool.shape, widths=widths, depth=depth) if decoder == "convolutions" else
            nn.Sequential(mlp((z + c, hidden, 2 * hidden, prod(pool.shape))), Shaped(*pool.shape)),
        )
    ]  # fmt: skip

    def at_test(ways: int = 5):
        return neural_statistician((encoder.eval(), init), *others, ways=ways)

    rows = [Row(label(n, k), at_test(n), n, k, 15, figure) for (n, k), figure in published.items()]
    rows += [
        Row(f"{label(10, k)}, MNIST", at_test(10), 10, k, 15, figure, data=mnist)
        for k, figure in (transfer or {}).items()
    ]
    pens = pens and pool.shape[0] == 1 and pool.shape[1] == pool.shape[2]
    return Plan(
        Varied(pool, strokes) if pens else pool, neural_statistician((encoder, init), *others, ways=sets), at_test,
        tuple(rows), steps=steps, tasks=1, ways=sets, shots=shots, queries=1,
        options={
            "clip": 100.0, "optimizer": lambda p: torch.optim.Adam(p, lr=lr),
            "schedule": lambda o: torch.optim.lr_scheduler.LambdaLR(
                o, lambda step: min(1.0, 2 - 2 * step / steps) if decay else 1.0
            ),
        },
    )  # fmt: skip


def distributions_plan(
    pool: Pool, *, steps: int, tasks: int = 16, shots: int = 200, c: int = 3, z: int = 32, hidden: int = 128
) -> Plan:
    """The Neural Statistician as published on synthetic distributions: sets of 200 points, statistics of size 3, Adam
    1e-3, 16 sets a step; scored by how far the density it infers from 200 points is from the true one."""
    if not isinstance(pool.target, Numbers) or tuple(pool.shape) != (1,):
        raise ValueError(f"this recipe is for densities of the line; {pool.name} is for {pool.kind}.")
    inner = [hidden] * 3
    sizes = (
        (1, *inner), (hidden + 1, *inner, 2 * c), (hidden + c, *inner, 2 * z), (c, *inner, 2 * z), (z + c, *inner, 2)
    )
    parts = [functional(mlp(size)) for size in sizes]

    def at_test(ways: int = 1, by_density: bool = True):
        return neural_statistician(
            *parts, ways=ways, likelihood=Gaussian, by_density=by_density, sample_dropout=False
        )

    rows = (Row(f"{shots} points", at_test(), 1, shots, 100, metric=excess_nats),)
    return Plan(pool, at_test(), at_test, rows, steps=steps, tasks=tasks, ways=1, shots=shots, queries=1,
                options={"clip": 100.0}, more_shots=(10, 50, 100))  # fmt: skip
