"""Descent inside `adapt`: gradient methods as pure functions of their state.

    state            = init(phi)
    phi', state'     = update(lr, g, phi, state)

phi and g are dicts of tensors; lr is a number or a dict with a rate for each entry of phi (a scalar, or a
tensor of the entry's shape). All are differentiable to any order and finite where the gradient is zero.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Params = dict[str, Tensor]
Rate = float | Params


class Descent(NamedTuple):
    init: Callable[[Params], Any]
    update: Callable[[Rate, Params, Params, Any], tuple[Params, Any]]


def _rate(lr: Rate, name: str) -> float | Tensor:
    return lr[name] if isinstance(lr, dict) else lr


def sgd() -> Descent:
    """phi' = phi - lr g."""

    def update(lr, g, phi, state):
        return {n: phi[n] - _rate(lr, n) * g[n] for n in phi}, state

    return Descent(lambda phi: (), update)


def adam(*, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8) -> Descent:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980); Reptile's inner loop uses beta1 = 0.

        m' = beta1 m + (1 - beta1) g          v' = beta2 v + (1 - beta2) g^2
        phi' = phi - lr (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + eps)

    The square root is taken of max(v', tiny), so that its derivative at a gradient that was always zero (a
    dead unit) is zero instead of infinite; the value is the same to rounding.
    """

    def init(phi):
        zero = {n: torch.zeros_like(p) for n, p in phi.items()}
        return 0, zero, zero

    def update(lr, g, phi, state):
        t, m, v = state
        t = t + 1
        m = {n: beta1 * m[n] + (1 - beta1) * g[n] for n in phi}
        v = {n: beta2 * v[n] + (1 - beta2) * g[n] ** 2 for n in phi}
        step = {}
        for n in phi:
            v_hat = v[n] / (1 - beta2**t)
            tiny = torch.finfo(v_hat.dtype).tiny
            root = torch.where(v_hat > tiny, v_hat.clamp_min(tiny).sqrt(), torch.zeros_like(v_hat))
            step[n] = (m[n] / (1 - beta1**t)) / (root + eps)
        return {n: phi[n] - _rate(lr, n) * step[n] for n in phi}, (t, m, v)

    return Descent(init, update)
