"""Few-shot regression of the sine curves of Meta-SGD's Table 1 (arXiv:1707.09835), with MAML's meta-batch."""

import torch.nn.functional as F

from ..learners.maml import maml
from ..nn import functional, mlp
from ..targets import Numbers
from ..tasks.pool import Pool
from .plan import Plan, Row


def sinusoid_plan(
    pool: Pool, *, shots: int, published: float, published_ci: float, learn_lr: str | None = None,
    inner_lr: float = 0.01, steps: int = 60_000, tasks: int = 25,
) -> Plan:
    """A 40-40 ReLU network, one inner step on the mean squared error of `shots` points, 10 query points, Adam 1e-3;
    scored by the mean squared error on 100 query points after that one step."""
    if not isinstance(pool.target, Numbers) or tuple(pool.shape) != (1,):
        raise ValueError(f"this recipe regresses a number on a number; {pool.name} is for {pool.kind}.")
    net, init = functional(mlp((1, 40, 40, 1)))

    def at_test(ways: int = 1, inner_steps: int = 1):
        return maml(net, init, inner_lr=inner_lr, inner_steps=inner_steps, learn_lr=learn_lr, loss=F.mse_loss)

    rows = (Row(f"{shots}-shot, one step", at_test(), 1, shots, 100, published, published_ci),)
    return Plan(
        pool, at_test(), at_test, rows, steps=steps, tasks=tasks, ways=1, shots=shots, queries=10,
        inner_steps=(1, 2, 3, 5, 10),
    )
