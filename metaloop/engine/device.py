"""Which device computes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def choose(device: str | torch.device = "auto") -> torch.device:
    """"auto" is the first of cuda, mps, cpu that is there. Raises ValueError if the one asked for is not."""
    name = str(device)
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if there[kind]))
    kind, _, index = name.partition(":")
    found = [k for k, yes in there.items() if yes]
    if kind not in there:
        raise ValueError(f"device {name!r} is unknown. Use auto, {', '.join(there)}.")
    if not there[kind] or (kind == "cuda" and index and int(index) >= torch.cuda.device_count()):
        raise ValueError(f"device {name!r} is not on this machine, which has: {', '.join(found)}.")
    return torch.device(name)


@contextmanager
def float32(device: torch.device) -> Iterator[None]:
    """On a GPU, convolutions of float32 in float32, not in TF32. Products of matrices are as torch is set.

    While torch.compile traces the caller, nothing is set: what it compiles keeps what holds where it is called.
    """
    if device.type != "cuda" or torch.compiler.is_compiling():
        yield
        return
    conv: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = conv.fp32_precision
    conv.fp32_precision = "ieee"
    try:
        yield
    finally:
        conv.fp32_precision = before
