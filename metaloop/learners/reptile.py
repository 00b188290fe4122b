"""On First-Order Meta-Learning Algorithms (Reptile)
Nichol, Achiam & Schulman, 2018, arXiv:1803.02999

    phi   = U(theta, S)       k steps of descent on consecutive minibatches of S         (1)
    theta = theta + eps * E_task (phi - theta)                                           (2)
    f(x)  = net(phi, x)                                                                  (3)

(2) is a step of SGD, at rate eps, on 1/2 |theta - stop(phi)|^2: Reptile is a learner of initialisations with another
objective than MAML's. Meta-train it with plain SGD whose rate falls linearly from 1 to 0.

In the authors' code the inner Adam goes from task to task with the second moment and step count that it has. Here
they can be a part of theta, which U moves with the weights and (2) draws after them: carry_moments.

Departs: the minibatches cycle through S in one order instead of a fresh shuffle each pass (the task pools deal S in
random order); with several tasks per meta-step, the moments are averaged over them instead of handed on.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from ..core import Data, Learner, Params, Task
from ..nn import Descent, adam, condition, cross_entropy, learned, population
from ..torch_private import pytree
from .maml import FineTuned


def reptile(
    net: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    inner_lr: float = 1e-3,
    inner_steps: int = 5,
    batch: int | None = 10,
    optimizer: Descent | None = None,
    carry_moments: bool = False,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Learner:
    """Reptile: theta is net's initialisation, f is net after inner_steps minibatch steps on the support set.

    batch: examples per inner step, taken in order and cyclically from S; None, or one not below its size, takes all.
    optimizer: the inner method; `metaloop.nn.adam(beta1=0)`, as published, unless given.
    carry_moments: theta = {"net": ..., "method": the state that the inner method starts from}, both moved by (2): as
        published. It asks for plain SGD in meta-training; other optimizers have no use for the moments' scale. False:
        the method starts anew for each task, and theta is the network's parameters.
    """
    method = optimizer or adam(beta1=0.0)

    def start(seed: int):
        theta = init(seed)
        return {"net": theta, "method": method.init(learned(theta, net))} if carry_moments else theta

    def parts(theta):
        return (theta["net"], theta["method"]) if carry_moments else (theta, method.init(learned(theta, net)))

    def solve(theta, S: Data):
        """U: (phi, the state of the inner method)."""
        (phi, state), n = parts(theta), len(S.x)
        for k in range(inner_steps):
            B = slice(None)
            if batch and batch < n:
                B = torch.arange(k * batch, (k + 1) * batch, device=S.x.device) % n
            g = grad(lambda w: loss(net({**phi, **w}, S.x[B]), S.y[B]))(learned(phi, net))  # noqa: B023
            w, state = method.update(inner_lr, g, learned(phi, net), state)
            phi = {**phi, **w}                                                          # (1)
        return phi, state

    def adapt(theta, S: Data) -> FineTuned:
        phi, _ = solve(theta, S)
        query_net, phi = condition(net, phi, S.x)
        return FineTuned(phi, query_net)                                                # (3)

    def drawn(phi: Params, state):
        return (learned(phi, net), state) if carry_moments else learned(phi, net)

    def distance_to_solution(adapt, theta, task: Task):
        """1/2 |theta - phi|^2 with phi held constant; its gradient is theta - phi. The query set is not used."""
        held = pytree.tree_map(torch.detach, theta)
        here, there = drawn(*parts(theta)), drawn(*solve(held, task.support))
        squares = pytree.tree_map(lambda p, q: (p - q.detach()).square().sum(), here, there)
        return torch.stack(pytree.tree_leaves(squares)).sum() / 2, {}                   # (2)

    return Learner(start, adapt, distance_to_solution, statistics=population(net, "net" if carry_moments else None))
