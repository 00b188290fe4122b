"""Optimizers and schedules of published runs, as `fit` takes them: from theta's leaves, from the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def adam(lr: float) -> Callable[[Any], Any]:
    import torch

    return lambda leaves: torch.optim.Adam(leaves, lr=lr)


def sgd(lr: float) -> Callable[[Any], Any]:
    import torch

    return lambda leaves: torch.optim.SGD(leaves, lr=lr)


def scaled(factor: Callable[[int], float]) -> Callable[[Any], Any]:
    """The rate times factor(step)."""
    import torch

    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def halved(steps: int) -> Callable[[Any], Any]:
    """The rate halved every tenth of the run."""
    import torch

    return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, max(1, steps // 10), 0.5)


def cosine(steps: int) -> Callable[[Any], Any]:
    """Down a cosine to 0."""
    import torch

    return lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))


def one_cycle(lr: float, steps: int, rise: float) -> Callable[[Any], Any]:
    """Up to lr in the first part of the run, `rise` of it, then down to nothing."""
    import torch

    return lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=rise)
