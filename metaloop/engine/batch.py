"""Many tasks at once: the meta-gradient, and predictors for a batch of tasks.

A learner is written for one task; `vmap` adds the task axis. Where the outer gradient is taken matters.
With an inner gradient, torch's batching rules for the derivatives of norm layers are wrong in
`grad(vmap(task).mean())`, silently and by up to a quarter; `vmap(grad(task))` is exact. Without an inner
gradient both are exact and the pooled form is cheaper, since weights shared by all tasks keep one gradient.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp, vmap

from ..core import Info, Learner, Task, Theta
from ..nn.functional import at_meta_test
from ..nn.unroll import backward
from ..targets import target_of
from ..torch_private import pytree
from . import methods
from .device import float32
from .memory import in_bytes, largest_chunk
from .renamed import renamed
from .theta import check, without_fixed
from .threads import Compiled, SideBySide, cores

MetaGradient = Callable[[Theta, Task], tuple[Theta, Tensor, Info]]


WORKING_SET, COMPILED_SET = 2**17, 2**13  # numbers of task data per chunk on a CPU; see `chunk_size`


@renamed("checkpoint", "recompute")
def meta_gradient(
    learner: Learner,
    *,
    method: str = "exact",
    recompute: bool = False,
    chunk: int | None = None,
    memory: str | int | None = None,
    compile: bool = False,
    horizon: int = 1,
    cg_steps: int = 5,
    sigma: float = 0.1,
    pairs: int = 16,
    uneven: bool = False,
) -> MetaGradient:
    """(theta, tasks) -> (grads, loss, info): the gradient of the mean over tasks of the learner's objective.

    tasks: a Task whose tensors carry a leading task axis. grads: a pytree like theta. loss and the entries
    of info are means over tasks. The result is a value, which cannot be differentiated further. What is not learned
    of theta (`metaloop.nn.fixed`) has the gradient zero.

    method: "exact"; or, for learners with an inner loop by `metaloop.nn.descend` or `unroll`, "truncated" to the last
        `horizon` inner steps, or "implicit" with `cg_steps` of conjugate gradients (`metaloop.nn.unroll` has the
        mathematics); or, for all, "evolution" with `pairs` of values at a distance of sigma (`engine.methods`).
    recompute: inner steps are computed again when the gradient comes back, instead of kept: the same gradient, in
        memory that hardly grows with their number.
    chunk: how many tasks are held in memory at once; None lets `chunk_size` choose. memory: what the process may hold
        ("4GB", or bytes; on a GPU, in tensors); chunks are then as large as fits, and no larger than `chunk`.
    compile: trace the work of a chunk with torch.compile (half a minute or more, once).
    uneven: tasks may have different numbers of examples, filled up by y = -1 (`tasks.ClassPool.sample` with shots of
        (1, 5)): those of one size are computed together, each as it is, so that nothing depends on what fills up.
    On a CPU chunks are computed on all cores side by side, where they can be (`engine.threads`).
    The result depends on none of recompute, chunk, memory and compile beyond rounding; but for learners that draw noise
    (dropout, say), whose tasks are given other draws in other chunks, and compiled.

    Raises ValueError on a theta that is another learner's, on an unknown method or one that the learner has no use for,
    if one task takes more than the memory, or if the tensors of `tasks` disagree on the number of tasks, or have none.
    """
    if uneven and compile:
        raise ValueError("meta_gradient: uneven tasks are of many sizes, each of which would be compiled. Leave one.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"meta_gradient: chunk={chunk}, expected at least 1, or None.")
    route = methods.route(method, recompute, compile, horizon, cg_steps, sigma, pairs)
    budget = None if memory is None else in_bytes(memory)

    def one(theta: Theta, task: Task) -> tuple[Tensor, tuple[Tensor, Info]]:
        result = learner.objective(learner.adapt, theta, task)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[0], Tensor):
            raise ValueError("the learner's objective gives something else than (loss, info), a tensor and a dict.")
        loss, info = result
        return loss, (loss.detach(), {n: v.detach() for n, v in info.items()})

    def batch(theta: Theta, task: Task) -> tuple[Tensor, tuple[Tensor, Info]]:
        losses, logs = vmap(one, in_dims=(None, 0), randomness="different")(theta, task)
        return losses.sum(), logs

    def summed(theta: Theta, tasks: Task):
        """Gradient, loss and info, summed over tasks. A single task needs no batching, whose copies cost time."""
        if count(tasks) == 1:
            return gradient(one)(theta, first_task(tasks))
        if learner.differentiates:
            per_task = vmap(gradient(one), in_dims=(None, 0), randomness="different")
            return pytree.tree_map(lambda t: t.sum(0), per_task(theta, tasks))
        grads, logs = gradient(batch)(theta, tasks)
        return grads, pytree.tree_map(lambda t: t.sum(0), logs)

    def values(theta: Theta, tasks: Task):
        """Loss and info, summed over tasks."""
        with torch.no_grad():
            if count(tasks) == 1:
                return one(theta, first_task(tasks))[1]
            return pytree.tree_map(lambda t: t.sum(0), batch(theta, tasks)[1])

    work = values if method == "evolution" else summed
    at_once, sizes = Compiled(work) if compile else SideBySide(work), {}

    def spread(tasks: Task) -> bool:
        """Steps that are computed again set the random numbers, which threads share."""
        return tasks.support.x.device.type == "cpu" and not recompute

    def size(theta: Theta, tasks: Task) -> int:
        """Of the chunks; what is measured for it is measured once for tasks of one shape."""
        beside = cores() if spread(tasks) else 1
        most = min(chunk or chunk_size(tasks, beside, compiled=compile), count(tasks))
        if budget is None:
            return most
        shapes = tuple(t.shape for t in pytree.tree_leaves(tasks))
        if shapes not in sizes:
            part = lambda n: next(chunks(tasks, n))
            even = [most, *(n for n in range(1, most) if count(tasks) % n == 0)]
            sizes[shapes] = largest_chunk(work, theta, part, even, budget=budget, beside=beside)
        return sizes[shapes]

    def mean_of(theta: Theta, tasks: Task) -> Any:
        """The work's sums over tasks, as means."""
        alike, total = groups(tasks) if uneven else [(None, tasks)], None
        parts = [part for _, some in alike for part in chunks(some, size(theta, some))]
        for of_part in at_once(theta, parts, spread=spread(tasks)):
            total = of_part if total is None else pytree.tree_map(torch.add, total, of_part)
        return pytree.tree_map(lambda t: t / count(tasks), total)

    def held(grads: Theta) -> Theta:
        return grads if torch.compiler.is_compiling() else without_fixed(learner, grads)

    def mean(theta: Theta, tasks: Task) -> tuple[Theta, Tensor, Info]:
        if not torch.compiler.is_compiling():
            check("meta_gradient", learner, theta)
        if route.method != "exact" and not route.met:
            methods.check_inner_loop(learner, theta, first_task(tasks), route)
        with backward(route), float32(tasks.support.x.device):
            if method != "evolution":
                grads, (loss, info) = mean_of(theta, tasks)
                return held(grads), loss, info
            still = methods.not_learned(learner, theta, first_task(tasks))
            loss, info = mean_of(theta, tasks)
            of = lambda theta: mean_of(theta, tasks)[0]
            return methods.evolution(of, theta, still, held, pairs=pairs, sigma=sigma), loss, info

    return mean


def gradient(f: Callable[..., tuple[Tensor, Any]]) -> Callable[..., tuple[Any, Any]]:
    """(x, ...) -> (the gradient in x of the first, the second) of what f(x, ...) gives.

    As torch.func.grad(f, has_aux=True), but without a graph of the way back, which costs memory and time.
    """

    def of(x, *rest):
        value, pull, more = vjp(lambda x: f(x, *rest), x, has_aux=True)  # type: ignore[misc]
        with torch.no_grad():
            return pull(torch.ones_like(value), retain_graph=False)[0], more

    return of


def predict(learner: Learner, theta: Theta, tasks: Task) -> Tensor:
    """What f = F_theta(S) says of each task's queries, without noise: [tasks, queries, ...]."""

    def one(theta, task):
        with at_meta_test():
            return learner.adapt(theta, task.support)(task.query.x)

    with torch.no_grad(), float32(tasks.support.x.device):
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


def chunk_size(tasks: Task, threads: int = 1, *, compiled: bool = False) -> int:
    """How many tasks to compute at once: all on a GPU; on a CPU as many as keep the working set in its cache.

    Activations grow with the input, so what is bounded is the numbers of task data in a chunk. The largest divisor of
    the number of tasks within the bound is taken: chunks of one shape are compiled once. What batching saves is the
    calls, and what it costs are copies and weights that differ from task to task: where fewer than eight tasks fit they
    are computed one by one. A compiled chunk makes few calls, so its bound is lower, and it has no such step.
    threads: how many chunks are computed side by side; if possible, all of them then have as many to do.
    """
    leaf, n = tasks.support.x, count(tasks)
    if leaf.device.type != "cpu":
        return n
    most = max(1, (COMPILED_SET if compiled else WORKING_SET) // sum(part.x[0].numel() for part in tasks))
    if not compiled and most < 8:
        return 1
    if not compiled and most >= n:
        return n
    sizes = [size for size in range(1, n + 1) if n % size == 0 and size <= most]
    return max(sizes, key=lambda size: (n // size % threads == 0, size))


def groups(tasks: Task) -> list[tuple[Tensor, Task]]:
    """A batch as batches of tasks of one size each, and which of its tasks these are: without what is no example,
    y = -1, by which pools fill uneven tasks up. It reads values; a batch of even tasks is given back as it is."""
    (_, y), (_, q) = tasks.support[:2], tasks.query[:2]
    whole = torch.arange(count(tasks), device=y.device)
    if target_of(y).numbers or y.device.type == "meta" or not ((y < 0).any() or (q < 0).any()):
        return [(whole, tasks)]
    sizes = torch.stack([(part >= 0).flatten(1).sum(1) for part in (y, q)], 1)
    for part, n in zip((y, q), sizes.T, strict=True):
        if not torch.equal(part >= 0, torch.arange(part.shape[1], device=part.device) < n[:, None]):
            raise ValueError("uneven tasks: what is no example, y = -1, must stand behind all examples of its task.")
    found = []
    for n, m in sizes.unique(dim=0).tolist():
        if n == 0 or m == 0:
            raise ValueError("uneven tasks: a task has no example.")
        index = ((sizes[:, 0] == n) & (sizes[:, 1] == m)).nonzero()[:, 0]
        support, query = pytree.tree_map(lambda t: t[index], tasks)  # noqa: B023
        cut = lambda data, k: data._replace(x=data.x[:, :k], y=data.y[:, :k])
        found.append((index, Task(cut(support, n), cut(query, m))))
    return found


def chunks(tasks: Task, size: int) -> Iterator[Task]:
    """Cut a batch of tasks into batches of at most `size`."""
    for start in range(0, count(tasks), size):
        yield pytree.tree_map(lambda t: t[start : start + size], tasks)  # noqa: B023
