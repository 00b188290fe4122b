"""On First-Order Meta-Learning Algorithms (Reptile)
Nichol, Achiam & Schulman, 2018, arXiv:1803.02999

    phi   = U(theta, S)       k steps of descent on consecutive minibatches of S         (1)
    theta = theta + eps * E_task (phi - theta)                                           (2)
    f(x)  = net(phi, x)                                                                  (3)

(2) is a step of SGD, at rate eps, on 1/2 |theta - stop(phi)|^2: Reptile is MAML's F with another objective.
Meta-train it with plain SGD whose rate falls linearly from 1 to 0.

Departs: the minibatches cycle through S in one order instead of a fresh shuffle each pass (the task pools
deal S in random order); the moments of the inner Adam start at zero for every task, where the authors'
code carries them from task to task in meta-training.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad

from ..core import Data, Learner, Params, Task
from ..nn import Descent, adam, condition, population
from ..objectives.query import scalars
from .maml import FineTuned


def distance_to_solution(adapt, theta: Params, task: Task):
    """1/2 |theta - phi|^2 with phi held constant; its gradient is theta - phi."""
    f = adapt({n: p.detach() for n, p in theta.items()}, task.support)
    squares = [(p - f.phi[n].detach()).square().sum() for n, p in theta.items()]
    loss = torch.stack(squares).sum() / 2                                                # (2)
    return loss, scalars(f(task.query.x), task.query.y)


def reptile(
    net: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    inner_lr: float = 1e-3,
    inner_steps: int = 5,
    batch: int | None = 10,
    optimizer: Descent | None = None,
    loss: Callable[[Tensor, Tensor], Tensor] = F.cross_entropy,
) -> Learner:
    """Reptile: theta is net's initialisation, f is net after inner_steps minibatch steps on the support set.

    batch: examples per inner step, taken in order and cyclically from S; None takes all of S.
    optimizer: the inner method; `metaloop.nn.adam(beta1=0)`, as published, unless given.
    """
    method = optimizer or adam(beta1=0.0)

    def adapt(theta: Params, S: Data) -> FineTuned:
        phi, state, n = theta, method.init(theta), len(S.x)
        for k in range(inner_steps):
            B = [i % n for i in range(k * batch, (k + 1) * batch)] if batch and batch < n else slice(None)
            g = grad(lambda phi: loss(net(phi, S.x[B]), S.y[B]))(phi)  # noqa: B023
            phi, state = method.update(inner_lr, g, phi, state)                          # (1)
        query_net, phi = condition(net, phi, S.x)
        return FineTuned(phi, query_net)                                                 # (3)

    return Learner(init, adapt, distance_to_solution, statistics=population(net))
