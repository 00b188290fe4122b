"""How much memory a computation takes, and how much of it at once a budget allows."""

import re
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..torch_private import TorchDispatchMode, pytree

UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
# What allocators and kernels take as a multiple of the tensors: malloc, with an arena for each thread, more than
# torch's allocator on a GPU. Measured in docs/performance.md.
SPARE, SPARE_GPU = 3.0, 1.5


def in_bytes(memory: str | int) -> int:
    """4_000_000_000, "4GB", "512 MiB" as bytes. Raises ValueError on anything else.

    >>> in_bytes("1.5GB")
    1500000000
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?|)B?\s*", str(memory), re.IGNORECASE)
    unit = found and next((size for name, size in UNITS.items() if name.lower() == found[2].lower()), None)
    if not found or not unit or not float(found[1]):
        raise ValueError(f"memory={memory!r}, expected a size such as '4GB' or '512MiB'.")
    size = float(found[1]) * unit
    if size > 2**62:
        raise ValueError(f"memory={str(memory)[:40]!r} is more than any machine has.")
    return int(size)


def in_words(size: float) -> str:
    """Bytes as people write them.

    >>> in_words(4.2e9)
    '4.2 GB'
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} bytes"


def in_use(device: torch.device) -> int:
    """The bytes that this process holds now, on a GPU in tensors."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    if sys.platform.startswith("linux"):
        import resource

        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    return 0


def peak(work: Callable[..., Any], *arguments: Any) -> int:
    """The most bytes of tensors that work(*arguments) holds at once beside its arguments."""
    with _Living(pytree.tree_leaves(arguments)) as living:
        work(*arguments)
    return living.most


def largest_chunk(
    work: Callable[[Any, Any], Any], theta: Any, part: Callable[[int], Any], sizes: Sequence[int], *,
    budget: int, beside: int = 1,
) -> int:  # fmt: skip
    """The largest of the chunk sizes with which work(theta, part(size)) stays within the budget, what the process
    holds already included. beside: how many chunks are computed side by side.

    One task is measured, and two where twice one would fit; since what tasks share counts once, n tasks take at most
    n / 2 of what two take. Raises ValueError if one task takes more than there is.
    """
    device = pytree.tree_leaves(theta)[0].device
    held, need, spare = 0, 0.0, SPARE_GPU if device.type == "cuda" else SPARE
    devices = [device] if device.type == "cuda" else []
    for probe in (1, 2):
        with torch.random.fork_rng(devices):
            need = max(need, spare * beside * peak(work, theta, part(probe)) / probe)
        held = in_use(device)  # after the work: before it, the code that it runs need not be in memory
        fitting = [size for size in sizes if held + need * size <= budget]
        if max(fitting, default=0) < 2:
            break
    if fitting:
        return max(fitting)
    raise ValueError(
        f"memory={in_words(budget)!r}: a task takes {in_words(need)} beside the {in_words(held)} in use. "
        "Give it more, or take fewer inner steps or queries (in Python also recompute=True)."
    )


class _Living(TorchDispatchMode):
    """Counts the bytes of the tensors that are made within it, while they live."""

    def __init__(self, known: Sequence[Tensor]):
        super().__init__()
        self.now = self.most = 0
        self.seen = {id(s): weakref.ref(s) for s in (t.untyped_storage() for t in known)}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for t in pytree.tree_leaves(result):
            if isinstance(t, Tensor):
                self._count(t.untyped_storage())
        return result

    def _count(self, storage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self.seen:
            return
        self.now += size
        self.most = max(self.most, self.now)

        def gone(_):
            self.seen.pop(key, None)
            self.now -= size

        self.seen[key] = weakref.ref(storage, gone)
