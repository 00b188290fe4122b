"""Learned optimizers, and what they are to optimize (Andrychowicz et al. 2016, arXiv:1606.04474)."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import tasks
from ..learners.lstm_optimizer import lstm_optimizer
from ..nn import conv4, functional
from ..tasks.pool import Pool
from ..tasks.problems import ProblemPool
from .plan import Plan, Row

LINE = functional(nn.Linear(10, 1, bias=False))  # W w, of |W w - y|^2
SPREAD = 0.01  # of the starts, as in the authors' code
BATCH, STEPS = 128, 100
SHOTS, QUERIES = 640, 200  # digits of each class: 50 minibatches, and those that are judged on


def classifier(hidden: tuple[int, ...] = (20,), activation: type[nn.Module] = nn.Sigmoid, pool: int = 1) -> nn.Module:
    """28x28 pixels, averaged over squares of pool x pool; fully connected layers; ten classes."""
    sizes = [(28 // pool) ** 2, *hidden]
    layers = [layer for pair in zip(sizes, hidden, strict=False) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(nn.AvgPool2d(pool), nn.Flatten(), *layers, nn.Linear(sizes[-1], 10))


def quadratics() -> Pool:
    """|W w - y|^2 in ten dimensions, W and y Gaussian, from w_0 ~ N(0, 0.01^2)."""
    return tasks.problems(tasks.least_squares(), LINE[1], spread=SPREAD)


def mnist_problems(module: nn.Module | None = None, spread: float | None = SPREAD) -> Pool:
    """A network to train on MNIST: the paper's 784-20-10, unless given, from N(0, spread^2) or its own start."""
    return tasks.problems(tasks.mnist(), functional(module or classifier())[1], spread=spread)


def final_sum(predicted: Tensor, y: Tensor) -> Tensor:
    """|W w_T - y|^2 of each task."""
    return (predicted - y).square().flatten(1).sum(1)


def final_loss(predicted: Tensor, y: Tensor) -> Tensor:
    """The mean cross-entropy of each task."""
    return F.cross_entropy(predicted.transpose(1, 2), y, reduction="none").mean(1)


def total_square(predicted: Tensor, y: Tensor) -> Tensor:
    return (predicted - y).square().sum()


def _training(steps: int, lr: float) -> dict:
    return {
        "optimizer": lambda p: torch.optim.Adam(p, lr=lr), "clip": 1.0,
        "schedule": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, lr, total_steps=steps, pct_start=0.05),
    }  # fmt: skip


def quadratic_plan(pool: Pool, *, steps: int, tasks: int, lr: float, unroll: int = 20) -> Plan:
    """No preprocessing, steps of scale 0.1, 100 of them on each function."""

    def at_test(ways: int = 1, inner_steps: int = STEPS):
        return lstm_optimizer(
            LINE[0], inner_steps=inner_steps, unroll=unroll, scale=0.1, preprocessed=False, loss=total_square
        )

    rows = (Row(f"{STEPS} steps", at_test(), 1, 1, 1, metric=final_sum),)
    return Plan(
        pool, at_test(), at_test, rows, steps=steps, tasks=tasks, ways=1, shots=1, queries=1,
        inner_steps=(5, 10, 20, 50, 100, 200), more_shots=(), options=_training(steps, lr),
    )  # fmt: skip


def mnist_plan(
    pool: Pool, *, steps: int, tasks: int, lr: float, unroll: int = 20, pixels: int = 1, transfer: bool = True,
) -> Plan:
    """Preprocessed gradients, steps of scale 0.1, 100 minibatches of 128; judged by the loss on other digits.

    pixels: meta-train on digits averaged over squares of so many pixels, whose networks are smaller. transfer: also
    test on the paper's other networks, and on a small convolutional one.
    """

    def optimizer(module: nn.Module, inner_steps: int = STEPS):
        net, _ = functional(module)
        return lstm_optimizer(net, inner_steps=inner_steps, batch=BATCH, unroll=unroll, scale=0.1)

    def row(label: str, module: nn.Module, inner_steps: int = STEPS, spread: float | None = SPREAD) -> Row:
        data = None if label == first else partial(mnist_problems, module, spread)
        return Row(label, optimizer(module, inner_steps), 10, SHOTS, QUERIES, metric=final_loss, data=data)

    def at_test(ways: int = 10, inner_steps: int = STEPS):
        return optimizer(classifier(), inner_steps)

    first = f"20 sigmoid units, {STEPS} steps"
    rows = [row(first, classifier())]
    if transfer:
        rows += [
            row("the same, 200 steps", classifier(), 200),
            row("40 units", classifier((40,))),
            row("two layers", classifier((20, 20))),
            row("ReLU", classifier(activation=nn.ReLU)),
            row("convolutions", conv4((1, 28, 28), out=10, width=16), spread=None),
        ]
    small = classifier(pool=pixels)
    learner = optimizer(small)
    return Plan(
        pool.on(functional(small)[1]) if isinstance(pool, ProblemPool) else pool, learner, at_test, tuple(rows),
        steps=steps, tasks=tasks, ways=10, shots=SHOTS, queries=QUERIES, inner_steps=(20, 50, 100), more_shots=(),
        options={
            **_training(steps, lr), "at_test": learner, "validate_every": max(1, steps // 5),
            "validation": {"ways": 10, "shots": 300, "queries": 100, "tasks": 10},
        },
    )  # fmt: skip
