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
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import Learner, Params, Task
from ..nn import Descent, adam, learned
from .maml import maml


def distance_to_solution(adapt, theta: Params, task: Task):
    """1/2 |theta - phi|^2 with phi held constant; its gradient is theta - phi. The query set is not used."""
    phi = adapt({n: p.detach() for n, p in theta.items()}, task.support).phi
    squares = [(p - phi[n].detach()).square().sum() for n, p in learned(theta).items()]
    return torch.stack(squares).sum() / 2, {}                                            # (2)


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

    batch: examples per inner step, taken in order and cyclically from S; None, or one not below its size, takes all.
    optimizer: the inner method; `metaloop.nn.adam(beta1=0)`, as published, unless given.
    """
    method = optimizer or adam(beta1=0.0)
    F_theta = maml(net, init, inner_lr=inner_lr, inner_steps=inner_steps, first_order=True,
                   batch=batch, optimizer=method, loss=loss)  # fmt: skip               # (1, 3)
    return replace(F_theta, objective=distance_to_solution)
