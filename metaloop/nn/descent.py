"""Descent inside `adapt`: gradient methods as pure functions of their state.

    state            = init(phi)
    phi', state'     = update(lr, g, phi, state)

phi and g are dicts of tensors; lr is a number or a dict with a rate for each entry of phi (a scalar, or a
tensor of the entry's shape). All are differentiable to any order, and finite where the gradient is zero. Where it has
always been zero Adam's and RMSprop's steps count as constant: their slope there is 1 / eps, on a stretch of about eps.

Two rules that a search over update rules found, PowerSign and AddSign, are of Bello, Zoph, Vasudevan & Le, Neural
Optimizer Search with Reinforcement Learning, ICML 2017, arXiv:1709.07417.
"""

import math
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


def signs() -> Descent:
    """phi' = phi - lr sign(g), which is the first step of an Adam that begins anew, up to its eps. Its size is the same
    whatever the gradient's, and it has no derivative but in phi and lr."""
    return Descent(lambda phi: {}, lambda lr, g, phi, m: ({n: phi[n] - _rate(lr, n) * g[n].sign() for n in phi}, m))


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


def clipped(method: Descent | None = None, *, norm: float | None = None, value: float | None = None) -> Descent:
    """A method that is given no gradient longer than it should be; `sgd()` unless another is given.

        norm:   g min(1, norm / |g|),  |g| over all entries of g (Pascanu et al. 2013, arXiv:1211.5063)
        value:  each number drawn to the nearest in [-value, value]; first this where both are given

    A meta-gradient goes through it: of a gradient that is shortened only the direction counts, and a number that is
    drawn in is constant. It is finite at g = 0. Raises ValueError for neither, or one that is not above 0.

    >>> method = clipped(norm=1.0)
    >>> method.update(1.0, {"w": torch.tensor([3.0, 4.0])}, {"w": torch.zeros(2)}, {})[0]
    {'w': tensor([-0.6000, -0.8000])}
    """
    if (norm is None and value is None) or not all(0 < t < math.inf for t in (norm, value) if t is not None):
        raise ValueError(f"clipped: norm={norm}, value={value}, expected a number above 0 for at least one.")
    init, update = method or sgd()

    def cut(lr, g, phi, state):
        if value is not None:
            g = {n: g_n.clamp(-value, value) for n, g_n in g.items()}
        if norm is not None:
            squares = torch.stack([g[n].square().sum() for n in phi]).sum()
            factor = norm * squares.clamp_min(norm**2).rsqrt()
            g = {n: factor * g_n for n, g_n in g.items()}
        return update(lr, g, phi, state)

    return Descent(init, cut)


Decay = Callable[[Tensor], Tensor]


def powersign(*, base: float = math.e, beta: float = 0.9, decay: Decay | None = None) -> Descent:
    """PowerSign: longer steps where the gradient has the sign of its average, shorter ones where it has the other.

        m' = beta m + (1 - beta) g          phi' = phi - lr base^(f(t) sign(g) sign(m')) g          (m_0 = 0)

    decay: f, of the number t = 0, 1, .. of the step; 1 unless given (`sign_decay`). The sign of zero is zero. Raises
    ValueError if base is not above 0, or beta is not in [0, 1).
    """
    if not 0 < base < math.inf:
        raise ValueError(f"powersign: base={base}, expected a number above 0.")
    return _signed("powersign", beta, decay, lambda agree: (math.log(base) * agree).exp())


def addsign(*, alpha: float = 1.0, beta: float = 0.9, decay: Decay | None = None) -> Descent:
    """AddSign: phi' = phi - lr (alpha + f(t) sign(g) sign(m')) g, with m' and f as in `powersign`.

    Raises ValueError if beta is not in [0, 1).
    """
    return _signed("addsign", beta, decay, lambda agree: alpha + agree)


def sign_decay(kind: str, steps: int, *, periods: float | None = None) -> Decay:
    """f(t) for `powersign` and `addsign`, from 1 at t = 0; T = steps, n = periods.

        "linear"      max(0, 1 - t / T)
        "cosine"      (1 + cos(2 pi n min(t, T) / T)) / 2           n = 1/2 unless given: f(T) = 0
        "restart"     (1 + cos(pi (n t mod T) / T)) / 2             n = 1 unless given: f is 1 again after T / n steps

    Raises ValueError on another kind, fewer than one step, or periods that are not above 0 or asked of a line.
    """
    if kind not in ("linear", "cosine", "restart"):
        raise ValueError(f'sign_decay: {kind!r}, expected "linear", "cosine" or "restart".')
    if not steps >= 1:
        raise ValueError(f"sign_decay: steps={steps}, expected at least 1.")
    if periods is not None and (kind == "linear" or not periods > 0):
        raise ValueError(f'sign_decay: periods={periods}, expected a number above 0, and none for "linear".')
    n = periods or {"linear": 0.0, "cosine": 0.5, "restart": 1.0}[kind]

    def f(t: Tensor) -> Tensor:
        if kind == "linear":
            return (1 - t / steps).clamp_min(0)
        part = 2 * n * t.clamp_max(steps) / steps if kind == "cosine" else torch.remainder(n * t, steps) / steps
        return (1 + torch.cos(math.pi * part)) / 2

    return f


def _signed(name: str, beta: float, decay: Decay | None, factor: Callable[[Tensor], Tensor]) -> Descent:
    """phi' = phi - lr factor(f(t) sign(g) sign(m')) g."""
    if not 0 <= beta < 1:
        raise ValueError(f"{name}: beta={beta}, expected a number from 0 to below 1.")

    def init(phi):
        first = next(iter(phi.values()))
        t = first.new_zeros((), dtype=torch.promote_types(first.dtype, torch.float32))  # bfloat16 counts to 256
        return {n: torch.zeros_like(p) for n, p in phi.items()}, t

    def update(lr, g, phi, state):
        m, t = state
        m = {n: beta * m[n] + (1 - beta) * g[n] for n in phi}
        agree = {n: g[n].sign() * m[n].sign() for n in phi}
        if decay is not None:
            agree = {n: decay(t).to(a.dtype) * a for n, a in agree.items()}
        step = {n: factor(agree[n]) * g[n] for n in phi}
        return {n: phi[n] - _rate(lr, n) * step[n] for n in phi}, (m, t + 1)

    return Descent(init, update)


def _scaled(m: Tensor, v: Tensor, eps: float) -> Tensor:
    """m / (sqrt(v) + eps), whose derivative is zero where v is zero: at a gradient that was always zero."""
    tiny = torch.finfo(v.dtype).tiny
    met = v > tiny
    root = torch.where(met, v.clamp_min(tiny).sqrt(), torch.zeros_like(v))  # the root's own slope is infinite at zero
    return torch.where(met, m, m.detach()) / (root + eps)
