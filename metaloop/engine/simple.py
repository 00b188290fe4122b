"""The loop of `fit`, without what makes it fast and lets it survive: read this first.

    theta <- optimizer(theta, 1/T sum_t  d/d theta L(F_theta(S_t); Q_t))        T tasks (S_t, Q_t), `steps` times

What `fit` adds: many tasks at once, on all cores, a GPU or several processes; checkpoints, Ctrl-C, a log, validation;
a look at what is not finite. With chunk=1, which takes tasks one by one as here, its theta is this one bit by bit.
Otherwise sums round in another order, and noise is drawn in another.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import grad

from ..core import Learner, Task, Theta
from ..torch_private import pytree
from .deal import Deal
from .methods import overwrite
from .seeds import noise
from .session import calibrate
from .theta import fixed_leaves


def simple_fit(
    learner: Learner,
    pool,
    *,
    steps: int,
    tasks: int,
    optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
    schedule: Callable[[torch.optim.Optimizer], torch.optim.lr_scheduler.LRScheduler] | None = None,
    clip: float | None = None,
    seed: int = 0,
    **episode: int,
) -> Theta:
    """The theta that `fit` ends with on a CPU. The arguments are those of `fit`; episode: ways, shots, queries."""
    leaves, fixed = pytree.tree_leaves(theta := learner.init(seed)), fixed_leaves(learner, theta)
    descent = optimizer(leaves)
    scheduler = schedule(descent) if schedule else None
    deal = Deal(pool.train, tasks, seed, "cpu", **episode)
    loss = lambda theta, task: learner.objective(learner.adapt, theta, task)[0]
    for step in range(steps):
        batch: Task = deal.at(step)()
        total = pytree.tree_map(torch.zeros_like, theta)
        with noise(seed, "noise", step):
            for i in range(tasks):
                gradient = grad(loss)(theta, pytree.tree_map(lambda t: t[i], batch))  # noqa: B023
                total = pytree.tree_map(torch.add, total, gradient)
        for leaf, g, still in zip(leaves, pytree.tree_leaves(total), fixed, strict=True):
            leaf.grad = None if still else g / tasks  # what is fixed is not moved
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(leaves, clip)
        descent.step()
        if scheduler is not None:
            scheduler.step()
        if learner.scheduled is not None:  # what follows the step rather than a gradient
            overwrite(theta, learner.scheduled(step + 1))
    calibrate(learner, theta, pool, seed=seed, **episode)  # what is estimated rather than learned
    return theta
