"""Meta-gradients of one learner by other means than the derivative of the whole computation.

    exact       d L / d theta, through every inner step
    truncated   through the last `horizon` inner steps at a time            (metaloop.nn.unroll)
    implicit    through what the inner steps solve; iMAML                   (metaloop.nn.unroll)
    evolution   d / d theta of E L(theta + sigma e), e ~ N(0, I), from values of L alone (Salimans et al. 2017,
                arXiv:1703.03864; for meta-learning Song et al. 2020, arXiv:1910.01215), in antithetic pairs:

                    g = 1/n sum_i  e_i (L(theta + sigma e_i) - L(theta - sigma e_i)) / 2 sigma
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..core import Learner, Task, Theta
from ..nn.unroll import Route, backward
from ..torch_private import pytree

METHODS = ("exact", "truncated", "implicit", "evolution")


def route(method: str, recompute: bool, compile: bool, horizon: int, cg_steps: int, sigma: float, pairs: int) -> Route:
    """How gradients come back through inner loops, from what `meta_gradient` is given.

    Raises ValueError on an unknown method, a number out of its range, or what does not go together.
    """
    if method not in METHODS:
        raise ValueError(f"meta_gradient: method is {method!r}, expected one of {', '.join(METHODS)}.")
    if min(horizon, cg_steps, pairs) < 1 or not sigma > 0:
        given = f"horizon={horizon}, cg_steps={cg_steps}, pairs={pairs}, sigma={sigma}"
        raise ValueError(f"meta_gradient: {given}; expected at least 1, and sigma above 0.")
    for name, given, default, of in (
        ("horizon", horizon, 1, "truncated"), ("cg_steps", cg_steps, 5, "implicit"),
        ("sigma", sigma, 0.1, "evolution"), ("pairs", pairs, 16, "evolution"),
    ):  # fmt: skip
        if given != default and method != of:
            raise ValueError(f"meta_gradient: {name}={given} changes nothing with method={method!r}, but for {of!r}.")
    if compile and (recompute or method == "implicit"):
        asked = "recompute=True" if recompute else "method='implicit'"
        raise ValueError(f"meta_gradient: {asked} cannot be compiled. Leave out compile=True.")
    if recompute and method in ("implicit", "evolution"):
        raise ValueError(f"meta_gradient: method={method!r} keeps no inner steps. Leave out recompute=True.")
    return Route("exact" if method == "evolution" else method, recompute, horizon, cg_steps)


def check_inner_loop(learner: Learner, theta: Theta, task: Task, asked: Route) -> None:
    """Raise ValueError if the method is one of inner loops, and the learner has none that the engine knows."""
    with backward(asked), torch.no_grad():
        learner.objective(learner.adapt, theta, task)
    if not asked.met:
        raise ValueError(
            f"meta_gradient: method={asked.method!r} is for learners with an inner loop by metaloop.nn.descend or "
            "unroll, such as maml; this one has none. Leave the method out, or take method='evolution'."
        )


def evolution(
    loss: Callable[[Theta], Tensor], theta: Theta, still: Theta, held: Callable[[Theta], Theta], *,
    pairs: int, sigma: float,
) -> Theta:  # fmt: skip
    """The gradient above, from 2 `pairs` values of the loss. still: the part of theta that is estimated or scheduled;
    held: (tree like theta) -> the same, zero where theta is fixed.

    The directions are drawn from torch's random numbers.
    """
    total = pytree.tree_map(torch.zeros_like, theta)
    for _ in range(pairs):
        e = held(pytree.tree_map(torch.randn_like, theta))
        overwrite(e, pytree.tree_map(torch.zeros_like, still))
        up, down = (loss(pytree.tree_map(lambda p, d: p + sign * d, theta, e)) for sign in (sigma, -sigma))  # noqa: B023
        slope = (up - down) / (2 * sigma * pairs)
        total = pytree.tree_map(lambda g, d: g + slope * d, total, e)  # noqa: B023
    return total


def estimated(learner: Learner, theta: Theta, task: Task) -> Theta:
    """What the learner's statistics are on one task: the part of theta that is estimated."""
    assert learner.statistics is not None
    return learner.statistics(theta, task if learner.statistics_of_task else task.support)


def not_learned(learner: Learner, theta: Theta, task: Task) -> Theta:
    """The part of theta that is estimated or scheduled instead of learned."""
    part: dict[str, Any] = {}
    with torch.no_grad():
        if learner.statistics is not None:
            part |= estimated(learner, theta, task)
        if learner.scheduled is not None:
            part |= learner.scheduled(0)
    return part


def overwrite(theta: Any, part: Any) -> None:
    """Copy the tensors of part, which is theta or some branches of it, into theta."""
    for name, value in part.items():
        if isinstance(value, dict):
            overwrite(theta[name], value)
        else:
            theta[name].copy_(value)
