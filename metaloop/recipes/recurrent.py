"""Functions of two numbers, learned by the state of a recurrent network (Hochreiter, Younger & Conwell 2001)."""

import torch

from ..learners.meta_rnn import meta_rnn
from ..nn import Recurrent, functional
from ..targets import Numbers
from ..tasks.pool import Pool
from .plan import Plan, Row


def meta_rnn_plan(
    pool: Pool, *, shots: int, test_shots: tuple[int, ...], hidden: int, steps: int, tasks: int = 64, lr: float = 5e-3,
) -> Plan:
    """One LSTM layer on sequences of shots + 1 examples, every prediction scored; Adam whose rate rises to lr in the
    first tenth and then falls to nothing; gradients clipped at norm 1. Each row is the mean squared error on the
    example after so many."""
    if not isinstance(pool.target, Numbers) or len(pool.shape) != 1:
        raise ValueError(f"this recipe regresses a number on a few; {pool.name} is for {pool.kind} of {pool.shape}.")
    net, init = functional(Recurrent(pool.shape[0] + 1, hidden, 1))
    learner = meta_rnn(net, init)
    rows = tuple(Row(f"after {n} examples", learner, 1, n, 20) for n in test_shots)
    return Plan(
        pool, learner, lambda ways=1: learner, rows, steps=steps, tasks=tasks, ways=1, shots=shots, queries=1,
        more_shots=(1, 2, 5, 10, 20, 30, 50),
        options={
            "optimizer": lambda p: torch.optim.Adam(p, lr=lr), "clip": 1.0,
            "schedule": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, lr, total_steps=steps, pct_start=0.1),
        },
    )  # fmt: skip
