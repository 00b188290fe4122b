"""Many processes train one theta: each takes its share of a step's tasks, and one message adds up what they found.

torchrun starts the processes, called ranks, and tells each its number; a process started in any other way is alone,
and nothing here changes what it computes. Every rank can draw any task of any step and holds the same theta and
optimizer, so that all that travels in a step is one sum over ranks:

    sum_r (n_r / n) [gradient_r, loss_r, info_r],  and whether anyone was asked to stop

with n_r of the step's n tasks on rank r. The first rank alone reads and writes files and speaks.
"""

import atexit
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from ..torch_private import pytree
from .device import choose

T = TypeVar("T")


class Lost(ValueError):
    """Another process has died or cannot be reached any more; this one can only keep what it has, and end."""

    heir = False  # does it speak and write for the first rank, which is dead?


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    size: int = 1
    local: int = 0  # among those of this machine
    device: str | torch.device = "cpu"  # where messages lie

    def stream(self, name: str) -> str:
        """The name of this rank's own random stream; the first rank's is that of a process alone."""
        return name if self.rank == 0 else f"{name} of rank {self.rank}"

    def share(self, n: int) -> tuple[range, float]:
        """Which of n tasks are this rank's, and their weight in the mean over all.

        Shares differ by a task at most. Where there are fewer tasks than ranks, one without a task takes the first at
        weight 0.
        """
        start, stop = self.rank * n // self.size, (self.rank + 1) * n // self.size
        return range(start, stop) if start < stop else range(1), (stop - start) / n

    def mean(self, tree: T, weight: float, asked: bool) -> tuple[T, bool]:
        """(sum over ranks of weight x tree, whether any rank was asked to stop): one message, the same on all ranks.

        Raises Lost if a rank does not answer.
        """
        if self.size == 1:
            return tree, asked
        leaves, spec = pytree.tree_flatten(tree)
        dtype = reduce(torch.promote_types, (t.dtype for t in leaves), torch.float32)
        parts = [(weight * t.detach().to(self.device, dtype)).flatten() for t in leaves]
        message = torch.cat([*parts, torch.full((1,), float(asked), dtype=dtype, device=self.device)])
        _talk(lambda: dist.all_reduce(message))
        *parts, stop = message.split([t.numel() for t in leaves] + [1])
        parts = [part.view(t.shape).to(t.device, t.dtype) for part, t in zip(parts, leaves, strict=True)]
        return pytree.tree_unflatten(parts, spec), bool(stop.item())

    def from_first(self, work: Callable[[], T]) -> T:
        """What work() gives on the first rank, or the ValueError it raises, on all. Raises Lost."""
        if self.size == 1:
            return work()
        done: list[Any] = [None, None]
        if self.rank == 0:
            try:
                done[0] = work()
            except ValueError as error:
                done[1] = error
        _talk(lambda: dist.broadcast_object_list(done, src=0, device=torch.device(self.device)))
        if done[1] is not None:
            raise done[1]
        return done[0]

    def first_here(self, work: Callable[[], T]) -> T:
        """work() on the first rank of each machine, where it may fill a cache, and then on the others. Raises Lost."""
        if self.size == 1:
            return work()
        done = [work()] if self.local == 0 else []
        _talk(lambda: dist.all_reduce(torch.zeros(1, device=self.device)))
        return done[0] if done else work()


def join(device: str | torch.device = "auto") -> tuple[Ranks, torch.device]:
    """This process among those torchrun started with it, and the device it computes on: on GPUs, each its own.

    Raises ValueError if there are more processes on this machine than GPUs.
    """
    where = choose(device)
    if where.type == "cuda" and where.index is not None:
        torch.cuda.set_device(where)
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or "RANK" not in os.environ:
        return Ranks(), where
    local = int(os.environ.get("LOCAL_RANK", 0))
    if where.type == "cuda":
        if local >= torch.cuda.device_count():
            there, asked = torch.cuda.device_count(), os.environ.get("LOCAL_WORLD_SIZE", local + 1)
            raise ValueError(f"{asked} processes on {there} GPUs: take --nproc-per-node {there}, or device='cpu'.")
        where = torch.device("cuda", local)
        torch.cuda.set_device(where)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if where.type == "cuda" else "gloo")
        atexit.register(time.sleep, 0.1)  # gloo's thread drops the last message; it cannot once Python goes down
        atexit.register(_leave)
    return Ranks(dist.get_rank(), dist.get_world_size(), local, where if where.type == "cuda" else "cpu"), where


def _talk(send: Callable[[], Any]) -> None:
    try:
        send()
    except RuntimeError as error:
        atexit.unregister(_leave)  # it would wait for the others
        reason = re.sub(r"^\[[^]]*\] ", "", str(error)).partition("\n")[0].partition(". ")[0]
        raise Lost(f"another process has died or does not answer ({reason})") from None


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
