"""Descent inside `adapt`: gradient methods as pure functions of their state.

    state            = init(phi)
    phi', state'     = update(lr, g, phi, state)

phi and g are dicts of tensors; lr is a number or a dict with a rate for each entry of phi (a scalar, or a
tensor of the entry's shape). All are differentiable to any order, and finite where the gradient is zero. Where it has
always been zero Adam's and RMSprop's steps count as constant: their slope there is 1 / eps, on a stretch of about eps.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..core import Params

Rate = float | Params


class Descent(NamedTuple):
    """An inner optimizer as two functions: its first state, init(phi), and a step, update(lr, g, phi, state)."""

    init: Callable[[Params], Any]
    update: Callable[[Rate, Params, Params, Any], tuple[Params, Any]]


def _rate(lr: Rate, name: str) -> float | Tensor:
    return lr[name] if isinstance(lr, dict) else lr


def sgd(*, momentum: float = 0.0, nesterov: bool = False) -> Descent:
    """m' = momentum m + g,   phi' = phi - lr m'   (m_0 = 0, as torch.optim.SGD).

    nesterov: phi' = phi - lr (g + momentum m'). Raises ValueError for nesterov without momentum, which is nothing.
    """
    if nesterov and not momentum:
        raise ValueError("sgd: nesterov=True changes nothing without momentum. Give one, e.g. momentum=0.9.")

    def init(phi):
        return {n: torch.zeros_like(p) for n, p in phi.items()} if momentum else {}

    def update(lr, g, phi, m):
        m = {n: momentum * m[n] + g[n] for n in phi} if momentum else {}
        step = {n: g[n] + momentum * m[n] for n in phi} if nesterov else m or g
        return {n: phi[n] - _rate(lr, n) * step[n] for n in phi}, m

    return Descent(init, update)


def adam(*, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8, weight_decay: float = 0.0) -> Descent:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980), with decoupled weight decay AdamW (Loshchilov & Hutter 2019,
    arXiv:1711.05101); Reptile's inner loop uses beta1 = 0.

        m' = beta1 m + (1 - beta1) g          v' = beta2 v + (1 - beta2) g^2
        phi' = phi - lr weight_decay phi - lr (m' / (1 - beta1^t)) / (sqrt(v' / (1 - beta2^t)) + eps)

    The state holds m, v and the scales 1 - beta^t, which are the same averages of ones.
    """

    def init(phi):
        m, v = ({n: torch.zeros_like(p) for n, p in phi.items()} for _ in "mv")
        m_scale, v_scale = (next(iter(v.values())).new_zeros(()) for _ in "mv")
        return m if beta1 else {}, v, m_scale, v_scale

    def update(lr, g, phi, state):
        m, v, m_scale, v_scale = state
        m = {n: beta1 * m[n] + (1 - beta1) * g[n] for n in phi} if beta1 else {}
        v = {n: beta2 * v[n] + (1 - beta2) * g[n] ** 2 for n in phi}
        m_scale, v_scale = beta1 * m_scale + (1 - beta1), beta2 * v_scale + (1 - beta2)
        step = {n: _scaled((m or g)[n] / m_scale, v[n] / v_scale, eps) for n in phi}
        decayed = {n: phi[n] - _rate(lr, n) * weight_decay * phi[n] for n in phi} if weight_decay else phi
        return {n: decayed[n] - _rate(lr, n) * step[n] for n in phi}, (m, v, m_scale, v_scale)

    return Descent(init, update)


def rmsprop(*, alpha: float = 0.99, eps: float = 1e-8, momentum: float = 0.0) -> Descent:
    """RMSprop (Tieleman & Hinton 2012): v' = alpha v + (1 - alpha) g^2,  m' = momentum m + g / (sqrt(v') + eps),
    phi' = phi - lr m'   (as torch.optim.RMSprop)."""

    def init(phi):
        return tuple({n: torch.zeros_like(p) for n, p in phi.items()} for _ in "vm")

    def update(lr, g, phi, state):
        v, m = state
        v = {n: alpha * v[n] + (1 - alpha) * g[n] ** 2 for n in phi}
        m = {n: momentum * m[n] + _scaled(g[n], v[n], eps) for n in phi}
        return {n: phi[n] - _rate(lr, n) * m[n] for n in phi}, (v, m)

    return Descent(init, update)


def _scaled(m: Tensor, v: Tensor, eps: float) -> Tensor:
    """m / (sqrt(v) + eps), whose derivative is zero where v is zero: at a gradient that was always zero."""
    tiny = torch.finfo(v.dtype).tiny
    met = v > tiny
    root = torch.where(met, v.clamp_min(tiny).sqrt(), torch.zeros_like(v))  # the root's own slope is infinite at zero
    return torch.where(met, m, m.detach()) / (root + eps)
