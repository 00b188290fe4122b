"""Inner loops, and the ways a gradient comes back through them.

    s_{k+1} = step(k, s_k, given)                 k = 0 .. K-1                              unroll
    phi'    = a descent method's step on grad L(phi; given) + lambda (phi - phi_0)          descend

A learner says what is iterated. How the meta-gradient comes back through it is not the learner's business: the engine
says so by `backward(route)`, for all that is computed inside.

    exact       through all K steps
    recompute   the same, from about (6 K)^(1/3) kept states: the steps between are computed again on the way back,
                each at most twice, and once more for its own derivative
    truncated   back through windows of `horizon` steps, the last window ending at s_K. Across a cut the state counts
                as s_0 plus a constant: d s / d s_0 = I, d s / d given = 0. Where s_0 holds nothing learned this is
                truncated back-propagation through time (Werbos 1990); with an s_0 that is learned, plain truncation
                would leave it no gradient at all, and the identity is what first-order MAML takes for every step.
    implicit    of `descend` with lambda > 0 alone: not through the steps but through what they solve (below)

The implicit gradient (iMAML: Rajeswaran, Finn, Kakade & Levine, NeurIPS 2019, arXiv:1909.04630). At a minimum phi* of
L(phi; given) + lambda/2 |phi - phi_0|^2, with H the Hessian of L in phi, and v = d loss / d phi*,

    u                 = (I + H / lambda)^{-1} v           by conjugate gradients                        (1)
    d loss / d phi_0  = u                                                                               (2)
    d loss / d given  = - d/d given <grad_phi L(phi*; given), u> / lambda                               (3)
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import comb
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from ..core import Params
from ..torch_private import pytree
from .descent import Descent, Rate, sgd

Tensors = tuple[Tensor, ...]
Step = Callable[[int, Any, Any], Any]
LEVELS = 3  # with recompute=True: how often a step is computed at most, its own way back not counted


@dataclass(frozen=True)
class Route:
    """The route by which a gradient comes back through inner loops. met: the loops that it has come back through."""

    method: str = "exact"
    recompute: bool = False
    horizon: int = 1
    cg_steps: int = 5
    met: list[str] = field(default_factory=list, compare=False)


_route = Route()


@contextmanager
def backward(route: Route) -> Iterator[None]:
    """Within this, gradients come back through inner loops by this route."""
    global _route
    before, _route = _route, route
    try:
        yield
    finally:
        _route = before


def _meet(route: Route, loop: str) -> None:
    if not torch.compiler.is_compiling() and loop not in route.met:  # a trace must not depend on what came before
        route.met.append(loop)


def unroll(step: Step, state: Any, given: Any, steps: int, *, every: bool = False) -> list[Any]:
    """[s_K], or [s_1 .. s_K] if `every` one is asked for, of s_{k+1} = step(k, s_k, given), from s_0 = state.

    step must be a function of its arguments alone: each tensor it uses is in state or given, which are pytrees.
    Raises ValueError if the engine asks for implicit gradients, which are those of `descend`.
    """
    route, start, path = _route, state, []
    if route.method == "implicit":
        raise ValueError("unroll: method='implicit' needs an inner loop made by metaloop.nn.descend.")
    _meet(route, "unroll")
    window = min(route.horizon, steps) if route.method == "truncated" else steps
    for k in _segments(steps, window, route, every):
        if k[0] and (steps - k[0]) % window == 0:
            state = _constant_plus(state, start)
        now = (state, given) if every or k[0] >= steps - window else pytree.tree_map(_held, (state, given))
        state = _again(step, k, *now) if route.recompute else step(k[0], *now)
        path.append(state)
        path = path if every else path[-1:]
    return path


def descend(
    loss: Callable[..., Tensor],
    phi: Params,
    given: Sequence[Any],
    *,
    lr: Rate | Sequence[Rate],
    steps: int,
    optimizer: Descent | None = None,
    first_order: bool = False,
    proximal: float = 0.0,
    every: bool = False,
) -> list[Params]:
    """[phi_K], or [phi_1 .. phi_K] if `every` one is asked for: descent on loss(phi, *given), from phi_0 = phi.

    loss must be a function of its arguments alone: each tensor it uses is in phi or given. lr: a number, a dict of
    rates for each entry of phi, or a sequence of such for each step. optimizer: `sgd()` unless given. first_order: the
    gradients are held constant. proximal: lambda, the strength of the pull to phi_0.
    Raises ValueError if the engine asks for implicit gradients and there is no pull, or every phi is asked for.

    >>> far = lambda phi, c: (phi["w"] - c).square().sum() / 2
    >>> descend(far, {"w": torch.zeros(1)}, (torch.ones(1),), lr=0.5, steps=2)
    [{'w': tensor([0.7500])}]
    """
    method, route = optimizer or sgd(), _route

    def slope(phi: Params, given) -> Params:
        """grad_phi L(phi; given), which is recorded for further derivatives where torch.is_grad_enabled()."""
        value, pull = vjp(lambda phi: loss(phi, *given), phi)  # type: ignore[misc]
        if value.dim():
            raise ValueError(f"descend: loss gives {tuple(value.shape)} numbers, expected one. Take their mean.")
        return pull(torch.ones_like(value), retain_graph=torch.is_grad_enabled())[0]

    def step(k: int, state, everything):
        (phi, moments), (given, centre, lr) = state, everything
        if first_order:
            with torch.no_grad():
                g = slope(*pytree.tree_map(_held, (phi, given)))
        else:
            g = slope(phi, given)
        if proximal:
            g = {n: g_n + proximal * (phi[n] - centre[n]) for n, g_n in g.items()}
        return method.update(lr[k] if isinstance(lr, list) else lr, g, phi, moments)

    rates = lr if isinstance(lr, float | int | dict) else list(lr)
    state, everything = (phi, method.init(phi)), (tuple(given), phi if proximal else None, rates)
    if route.method != "implicit":
        return [phi for phi, _ in unroll(step, state, everything, steps, every=every)]
    if not proximal > 0:
        raise ValueError("descend: method='implicit' needs a pull to the start, e.g. maml(..., proximal=2.0).")
    if any(isinstance(rate, Tensor) for rate in pytree.tree_leaves(rates)):
        raise ValueError(
            "descend: method='implicit' gives inner rates no gradient: what they lead to does not depend on them. Take "
            "numbers (learn_lr=None), or another method."
        )
    if first_order:
        raise ValueError("descend: method='implicit' takes no gradient through the steps. Leave out first_order=True.")
    if every:
        raise ValueError("descend: method='implicit' gives the gradient of the last step alone, not of every one.")
    _meet(route, "descend")

    def solve(phi: Params, given) -> Params:
        with backward(Route()):
            return unroll(step, (phi, method.init(phi)), (given, phi, rates), steps)[-1][0]

    return [_implicit(solve, slope, phi, tuple(given), proximal, route.cg_steps)]


def _segments(steps: int, window: int, route: Route, every: bool) -> Iterator[range]:
    """The steps of which only the state before them is kept, in order; none reaches across a cut. One by one if every
    state is."""
    levels = 1 if every or not route.recompute else LEVELS
    for end in range(steps % window or window, steps + 1, window) if steps else ():
        yield from _split(range(max(0, end - window), end), levels)


def _split(steps: range, levels: int) -> list[range]:
    """Steps in parts. On the way back, from the last part to the first, a part's own parts are split anew, one level
    less, down to single steps; the states before the parts that are still to come are kept.

    The i-th part from the end has C(i + levels - 2, levels - 1) steps, the most for which as many states are kept in
    each part; n parts have C(n + levels - 1, levels) steps in all. Griewank & Walther 2000, algorithm 799.
    """
    parts, end = [], steps.stop
    while end > steps.start:
        length = comb(len(parts) + levels - 1, levels - 1)
        parts.append(range(max(steps.start, end - length), end))
        end -= length
    return parts[::-1]


def _constant_plus(state: Any, start: Any) -> Any:
    """The value of state, with the derivative of start."""
    return pytree.tree_map(lambda s, s_0: _held(s) + (s_0 - _held(s_0)) if _is_real(s) else s, state, start)


def _held(t: Any) -> Any:
    return t.detach() if isinstance(t, Tensor) else t


def _is_real(t: Any) -> bool:
    return isinstance(t, Tensor) and t.is_floating_point()


# What torch needs to know to take a derivative that we write out


class _Written(torch.autograd.Function):
    """forward(*tensors) whose vector-Jacobian product is pull(inputs, outputs, cotangents, needed).

    keep: whether the outputs are kept for it; otherwise it is given none.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(forward, pull, keep, *tensors):  # type: ignore[override]
        return forward(tensors)

    @staticmethod
    def setup_context(ctx, inputs, output):
        _, ctx.pull, keep, *tensors = inputs
        ctx.inputs = len(tensors)
        ctx.save_for_backward(*tensors, *(output if keep else ()))

    @staticmethod
    def backward(ctx, *cotangents):
        saved, n = [t.detach() for t in ctx.saved_tensors], ctx.inputs
        held = tuple(c.detach() for c in cotangents)
        return None, None, None, *ctx.pull(saved[:n], saved[n:], held, ctx.needs_input_grad[3:])


def _take_apart(tree: Any) -> tuple[list[Tensor], Callable[[Sequence[Tensor]], Any]]:
    """The tensors of a pytree, and what builds it from other tensors; the rest of it (numbers, None) stays."""
    leaves, spec = pytree.tree_flatten(tree)
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    rest = [None if isinstance(leaf, Tensor) else (leaf,) for leaf in leaves]
    del leaves

    def build(tensors: Sequence[Tensor]) -> Any:
        left = iter(tensors)
        return pytree.tree_unflatten([next(left) if leaf is None else leaf[0] for leaf in rest], spec)

    return tensors, build


def _pullback(f: Callable[[list[Tensor]], Any], tensors: Sequence[Tensor], wanted: Sequence[bool], cotangents):
    """The vector-Jacobian products of f(tensors) with a cotangent for each real tensor it gives: for each tensor, None
    where it is not wanted."""
    at = [i for i, want in enumerate(wanted) if want and _is_real(tensors[i])]

    def of_wanted(*some: Tensor) -> Tensors:
        full = list(tensors)
        for i, t in zip(at, some, strict=True):
            full[i] = t
        return tuple(t for t in pytree.tree_leaves(f(full)) if _is_real(t))

    with torch.no_grad():
        products = vjp(of_wanted, *(tensors[i] for i in at))[1](cotangents, retain_graph=False)
    pulled: list[Tensor | None] = [None] * len(tensors)
    for i, product in zip(at, products, strict=True):
        pulled[i] = product
    return pulled


def _again(step: Step, steps: range, state: Any, given: Any) -> Any:
    """The state after these steps. Only the state before them is kept; the others are computed again."""
    first, build = _take_apart(state)
    fixed, build_given = _take_apart(given)
    n, noise = len(first), _Noise(first)
    after: list[Callable] = []  # what builds the last state, once it has been seen

    def forward(tensors: Tensors) -> Tensors:
        s, g = build(tensors[:n]), build_given(tensors[n:])
        for k in steps:
            s = step(k, s, g)
        last, build_last = _take_apart(s)
        after.append(build_last)
        return tuple(last)

    def pull(inputs: Tensors, _, cotangents: Tensors, needed: Sequence[bool]):
        fixed = inputs[n:]
        given = build_given(fixed)
        total: list[Any] = [None] * len(fixed)

        def back(part: range, levels: int, s: Any, then: Any, cotangents: Tensors) -> list[Any]:
            """The products for each tensor of s, the state before this part, from those for the state after it."""
            noise.set(then)
            if len(part) > 1:
                before: list[Any] = []
                pulled: list[Any] = [*cotangents]
                for p in (parts := _split(part, levels)):
                    before.append((p, s, noise.now()))
                    for k in p if p is not parts[-1] else ():
                        s = step(k, s, given)
                while before:
                    p, s, then = before.pop()
                    pulled = back(p, levels - 1, s, then, tuple(c for c in pulled if c is not None))
                return pulled
            tensors, build_s = _take_apart(s)
            wanted = [*([True] * n if part != steps[:1] else needed[:n]), *needed[n:]]
            pulled = _pullback(
                lambda t: step(part[0], build_s(t[:n]), build_given(t[n:])), [*tensors, *fixed], wanted, cotangents
            )
            total[:] = [b if a is None else a + b for a, b in zip(total, pulled[n:], strict=True)]
            return pulled[:n]

        with noise.again(), torch.no_grad():
            return [*back(steps, LEVELS - 1, build(inputs[:n]), noise.now(), cotangents), *total]

    last = _Written.apply(forward, pull, False, *first, *fixed)
    return after[-1](last)


class _Noise:
    """The state of torch's random numbers, so that what is computed again meets the same noise."""

    def __init__(self, tensors: Sequence[Tensor]):
        self.gpu = next((t.device for t in tensors if t.is_cuda), None)
        self.start = self.now()

    def now(self):
        if torch.compiler.is_compiling():
            return None
        return torch.get_rng_state(), None if self.gpu is None else torch.cuda.get_rng_state(self.gpu)

    def set(self, state) -> None:
        if state is not None:
            torch.set_rng_state(state[0])
            if self.gpu is not None:
                torch.cuda.set_rng_state(state[1], self.gpu)

    @contextmanager
    def again(self):
        """Within this, the numbers of when this was made; after it, those of before."""
        before = self.now()
        self.set(self.start)
        try:
            yield
        finally:
            self.set(before)


# The implicit gradient


def _implicit(solve, slope, phi: Params, given: Any, strength: float, cg_steps: int) -> Params:
    """solve(phi, given), a minimum, with the derivative of (1) - (3)."""
    first, build = _take_apart(phi)
    fixed, build_given = _take_apart(given)
    n = len(first)

    def forward(tensors: Tensors) -> Tensors:
        return tuple(_take_apart(solve(build(tensors[:n]), build_given(tensors[n:])))[0])

    def pull(inputs: Tensors, solution: Tensors, v: Tensors, needed: Sequence[bool]):
        given = build_given(inputs[n:])
        times_H: Any = vjp(lambda *phi: tuple(_take_apart(slope(build(phi), given))[0]), *solution)[1]
        damped = lambda u: tuple(a + h / strength for a, h in zip(u, times_H(u), strict=True))
        u = conjugate_gradients(damped, v, steps=cg_steps)                                           # (1), (2)
        times_H = None  # its graph is not needed any more
        down = tuple(-a / strength for a in u)
        of_given = lambda t: slope(build(solution), build_given(t))
        return [*u, *_pullback(of_given, inputs[n:], needed[n:], down)]                              # (3)

    return build(_Written.apply(forward, pull, True, *first, *fixed))


def conjugate_gradients(A: Callable[[Tensors], Tensors], b: Tensors, *, steps: int) -> Tensors:
    """x with A(x) = b, after `steps` steps from zero (Hestenes & Stiefel 1952). A: linear, symmetric, positive.

    It stands still where it is done, instead of dividing by zero.
    """
    x, r = tuple(torch.zeros_like(t) for t in b), b
    p, square = r, _inner(r, r)
    for _ in range(steps):
        Ap = A(p)
        a = _ratio(square, _inner(p, Ap))
        x = tuple(x_i + a * p_i for x_i, p_i in zip(x, p, strict=True))
        r = tuple(r_i - a * q_i for r_i, q_i in zip(r, Ap, strict=True))
        square, before = _inner(r, r), square
        b_k = _ratio(square, before)
        p = tuple(r_i + b_k * p_i for r_i, p_i in zip(r, p, strict=True))
    return x


def _inner(a: Tensors, b: Tensors) -> Tensor:
    return torch.stack([(x * y).sum() for x, y in zip(a, b, strict=True)]).sum()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    none = b == 0
    return torch.where(none, 0.0, a / torch.where(none, 1.0, b))
