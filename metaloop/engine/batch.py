"""Many tasks at once: the meta-gradient, and predictors for a batch of tasks.

A learner is written for one task; `vmap` adds the task axis. Where the outer gradient is taken matters.
With an inner gradient, torch's batching rules for the derivatives of norm layers are wrong in
`grad(vmap(task).mean())`, silently and by up to a quarter; `vmap(grad(task))` is exact. Without an inner
gradient both are exact and the pooled form is cheaper, since weights shared by all tasks keep one gradient.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor
from torch.func import grad_and_value, vmap

from ..core import Info, Learner, Task, Theta
from .threads import Compiled

MetaGradient = Callable[[Theta, Task], tuple[Theta, Tensor, Info]]


WORKING_SET = 2**18  # numbers of task data per chunk on a CPU; see `chunk_size`


def meta_gradient(learner: Learner, *, chunk: int | None = None, compile: bool = False) -> MetaGradient:
    """(theta, tasks) -> (grads, loss, info): the gradient of the mean over tasks of the learner's objective.

    tasks: a Task whose tensors carry a leading task axis. grads: a pytree like theta. loss and the entries
    of info are means over tasks. chunk: how many tasks are held in memory at once; None lets `chunk_size` choose.
    compile: trace the work of a chunk with torch.compile (half a minute or more, once); on a CPU, chunks are then
    computed on all cores side by side. The result depends on neither beyond rounding.

    Raises ValueError if the tensors of `tasks` disagree on the number of tasks, or there are none.
    """

    if chunk is not None and chunk < 1:
        raise ValueError(f"meta_gradient: chunk={chunk}, expected at least 1, or None.")

    def one(theta: Theta, task: Task) -> tuple[Tensor, tuple[Tensor, Info]]:
        loss, info = learner.objective(learner.adapt, theta, task)
        return loss, (loss.detach(), {n: v.detach() for n, v in info.items()})

    def batch(theta: Theta, task: Task) -> tuple[Tensor, tuple[Tensor, Info]]:
        losses, logs = vmap(one, in_dims=(None, 0), randomness="different")(theta, task)
        return losses.sum(), logs

    def summed(theta: Theta, tasks: Task):
        """Gradient, loss and info, summed over tasks. A single task needs no batching, whose copies cost time."""
        if count(tasks) == 1:
            grads, (_, logs) = grad_and_value(one, has_aux=True)(theta, first_task(tasks))
            return grads, logs
        if learner.differentiates:
            per_task = vmap(grad_and_value(one, has_aux=True), in_dims=(None, 0), randomness="different")
            grads, (_, logs) = per_task(theta, tasks)
            return pytree.tree_map(lambda t: t.sum(0), (grads, logs))
        grads, (_, logs) = grad_and_value(batch, has_aux=True)(theta, tasks)
        return grads, pytree.tree_map(lambda t: t.sum(0), logs)

    compiled = Compiled(summed) if compile else None

    def sums(theta: Theta, tasks: Task) -> Iterable[Any]:
        """The sums over each chunk."""
        cpu = tasks.support.x.device.type == "cpu"
        size = chunk or chunk_size(learner, tasks, torch.get_num_threads() if compiled else 1)
        parts = [*chunks(tasks, size)]
        return compiled(theta, parts, spread=cpu) if compiled else (summed(theta, part) for part in parts)

    def mean(theta: Theta, tasks: Task) -> tuple[Theta, Tensor, Info]:
        n, total = count(tasks), None
        for of_part in sums(theta, tasks):
            total = of_part if total is None else pytree.tree_map(torch.add, total, of_part)
        grads, (loss, info) = pytree.tree_map(lambda t: t / n, total)
        return grads, loss, info

    return mean


def predict(learner: Learner, theta: Theta, tasks: Task) -> Tensor:
    """What f = F_theta(S) says of each task's queries: [tasks, queries, ...]."""

    def one(theta, task):
        return learner.adapt(theta, task.support)(task.query.x)

    with torch.no_grad():
        if count(tasks) == 1:
            return one(theta, first_task(tasks))[None]
        return vmap(one, in_dims=(None, 0), randomness="different")(theta, tasks)


def count(tasks: Task) -> int:
    """The number of tasks on the leading axis of a batch of tasks."""
    sizes = {len(t) for t in pytree.tree_leaves(tasks)}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            f"tasks: the leading axes are {sorted(sizes)}, expected one number of tasks, at least 1. "
            "Stack the tasks; for a single one, add an axis with x[None]."
        )
    return sizes.pop()


def first_task(tasks: Task) -> Task:
    """The first of a batch of tasks, without its task axis."""
    return pytree.tree_map(lambda t: t[0], tasks)


def chunk_size(learner: Learner, tasks: Task, threads: int = 1) -> int:
    """How many tasks to compute at once: all on a GPU; on a CPU as many as keep the working set in its cache.

    Activations grow with the input, so what is bounded is the numbers of task data in a chunk. The largest divisor of
    the number of tasks within the bound is taken: chunks of one shape are compiled once. Large tasks without an inner
    gradient are computed one by one: each keeps the cores busy alone, and batching would only add copies.
    threads: how many chunks are computed side by side; if possible, all of them then have as many to do.
    """
    leaf, n = tasks.support.x, count(tasks)
    if leaf.device.type != "cpu":
        return n
    numbers = sum(part.x[0].numel() for part in tasks)
    most = max(1, WORKING_SET // numbers)
    if most < 8 and not learner.differentiates:
        return 1
    sizes = [size for size in range(1, n + 1) if n % size == 0 and size <= most]
    return max(sizes, key=lambda size: (n // size % threads == 0, size))


def chunks(tasks: Task, size: int) -> Iterator[Task]:
    """Cut a batch of tasks into batches of at most `size`."""
    for start in range(0, count(tasks), size):
        yield pytree.tree_map(lambda t: t[start : start + size], tasks)  # noqa: B023
