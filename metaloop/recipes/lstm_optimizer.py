"""Learned optimizers, and what they are to optimize (arXiv:1606.04474)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import metaloop as ml

from . import optim
from .data import OMNIGLOT, Protocol
from .plan import Plan, Row, recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ..core import Learner
    from ..tasks.pool import Pool

PAPER = "Andrychowicz et al. 2016"
SPREAD = 0.01  # of the starts, as in the authors' code
STEPS, BATCH = 100, 128
SHOTS, QUERIES = 640, 200  # digits of each class: 50 minibatches, and those that are judged on


def total_square(predicted: Tensor, y: Tensor) -> Tensor:
    return (predicted - y).square().sum()


def cross_entropy(predicted: Tensor, y: Tensor) -> Tensor:
    from torch.nn.functional import cross_entropy

    return cross_entropy(predicted, y)


def final_sum(predicted: Tensor, y: Tensor) -> Tensor:
    """|W w_T - y|^2 of each task."""
    return (predicted - y).square().flatten(1).sum(1)


def final_loss(predicted: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of each task."""
    from torch.nn.functional import cross_entropy

    return cross_entropy(predicted.transpose(1, 2), y, reduction="none").mean(1)


@dataclass(frozen=True)
class Case:
    """What is optimized, from where, for how many steps, and how its end is judged."""

    label: str
    module: nn.Module
    pool: Callable[..., Pool]  # (module=..., spread=...)
    steps: int = STEPS
    spread: float | None = SPREAD
    batch: int | None = BATCH
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    metric: Callable[[Tensor, Tensor], Tensor] = final_loss
    preprocessed: bool = True
    scale: float = 0.01
    episode: tuple[int, int, int] = (10, SHOTS, QUERIES)  # ways, shots, queries

    def learner(self, steps: int | None = None, unroll: int = 20) -> Learner:
        return ml.lstm_optimizer(
            ml.functional(self.module)[0], inner_steps=steps or self.steps, batch=self.batch, unroll=unroll,
            preprocessed=self.preprocessed, scale=self.scale, loss=self.loss,
        )  # fmt: skip

    def data(self) -> Pool:
        return self.pool(module=self.module, spread=self.spread)

    def row(self, own: bool) -> Row:
        """own: is it measured on the data that the recipe names?"""
        return Row(self.label, self.learner(), *self.episode, metric=self.metric, data=None if own else self.data)


def perceptron(*units: int, activation: str = "Sigmoid") -> nn.Module:
    """28x28 inputs, fully connected layers of units, ten classes."""
    from torch import nn

    sizes = [28**2, *units]
    shapes = zip(sizes, units, strict=False)
    layers = [layer for shape in shapes for layer in (nn.Linear(*shape), getattr(nn, activation)())]
    return nn.Sequential(nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


def line() -> nn.Module:
    """W w, of |W w - y|^2."""
    from torch import nn

    return nn.Linear(10, 1, bias=False)


def quadratics(*, module: nn.Module | None = None, spread: float | None = SPREAD) -> Pool:
    """|W w - y|^2 in ten dimensions, W and y Gaussian, from w_0 ~ N(0, 0.01^2)."""
    return ml.tasks.problems(ml.tasks.least_squares(), ml.functional(module or line())[1], spread=spread)


def mnist_problems(*, module: nn.Module | None = None, spread: float | None = SPREAD) -> Pool:
    """A network to train on MNIST: the paper's 784-20-10, unless given, from N(0, spread^2) or its own start."""
    return ml.tasks.problems(ml.tasks.mnist(), ml.functional(module or perceptron(20))[1], spread=spread)


def quadratic_cases() -> list[Case]:
    return [
        Case(f"{STEPS} steps", line(), quadratics, batch=None, loss=total_square, metric=final_sum, preprocessed=False,
             scale=0.1, episode=(1, 1, 1)),
    ]  # fmt: skip


def mnist_cases() -> list[Case]:
    """The network of meta-training, and those that the optimizer is then tried on."""
    case = partial(Case, pool=mnist_problems)
    return [
        case(f"20 sigmoid units, {STEPS} steps", perceptron(20)),
        case("the same, 200 steps", perceptron(20), steps=200),
        case("40 units", perceptron(40)),
        case("two layers of 20", perceptron(20, 20)),
        case("ReLU", perceptron(20, activation="ReLU")),
        case("four convolutions of 16", ml.nn.conv4((1, 28, 28), out=10, width=16), spread=None),
    ]


def _training(steps: int, lr: float) -> dict[str, Any]:
    return {"optimizer": optim.adam(lr), "clip": 1.0, "schedule": optim.one_cycle(lr, steps, 0.05)}


def quadratic_plan(pool: Pool, *, steps: int, tasks: int, lr: float, unroll: int = 20) -> Plan:
    """The gradient as it is, 100 steps of scale 0.1 on each function; Adam, whose rate rises to lr and then falls."""
    (case,) = quadratic_cases()

    def at_test(ways: int = 1, inner_steps: int = STEPS) -> Learner:
        return case.learner(inner_steps)

    ways, shots, queries = case.episode
    return Plan(
        pool, case.learner(unroll=unroll), at_test, (case.row(own=True),), steps=steps, tasks=tasks,
        ways=ways, shots=shots, queries=queries, inner_steps=(5, 10, 20, 50, 100, 200), more_shots=(),
        options=_training(steps, lr),
    )  # fmt: skip


def mnist_plan(
    pool: Pool, *, steps: int, tasks: int, lr: float, unroll: int = 20, units: int = 20, transfer: bool = True
) -> Plan:
    """Preprocessed gradients, steps of scale 0.01, 100 minibatches of 128; judged by the loss on other digits.

    units: of the network that is meta-trained on; all are tested on the paper's 20. transfer: also test on the paper's
    other networks, and on a small convolutional one.
    """
    from ..tasks.problems import ProblemPool

    cases = mnist_cases()

    def at_test(ways: int = 10, inner_steps: int = STEPS) -> Learner:
        return cases[0].learner(inner_steps)

    small = Case("meta-training", perceptron(units), mnist_problems)
    learner, (ways, shots, queries) = small.learner(unroll=unroll), small.episode
    rows = tuple(case.row(own=case is cases[0]) for case in (cases if transfer else cases[:1]))
    return Plan(
        pool.on(ml.functional(small.module)[1]) if isinstance(pool, ProblemPool) else pool, learner, at_test, rows,
        steps=steps, tasks=tasks, ways=ways, shots=shots, queries=queries, inner_steps=(20, 50, 100), more_shots=(),
        options={
            **_training(steps, lr), "at_test": learner, "validate_every": max(1, steps // 5),
            "validation": {"ways": 10, "shots": 300, "queries": 100, "tasks": 10},
        },
    )  # fmt: skip


# The paper prints curves, not figures.
RECIPES = [
    recipe(
        "lstm-optimizer-quadratic", PAPER, "an optimizer, learned on 10-d quadratic functions",
        Protocol("quadratics", (10,), kind="regression", make=quadratics), quadratic_plan,
        steps=10_000, tasks=128, lr=3e-3, quick={"steps": 1500, "tasks": 64, "lr": 1e-2},
        smoke={"steps": 2, "tasks": 2},
    ),
    recipe(
        "lstm-optimizer-mnist", PAPER, "an optimizer, learned on small networks for MNIST",
        Protocol("mnist_problems", OMNIGLOT, 10, make=mnist_problems), mnist_plan, steps=10_000, tasks=1, lr=3e-3,
        quick={"steps": 500, "lr": 1e-2, "units": 8, "transfer": False},
        smoke={"steps": 1, "units": 1, "transfer": False},
    ),
]  # fmt: skip
