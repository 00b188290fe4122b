"""Which device computes."""

import re
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
    kind, colon, index = name.partition(":")
    found = [k for k, yes in there.items() if yes]
    if kind not in there or (colon and not re.fullmatch("0|[1-9][0-9]{0,3}", index)):
        raise ValueError(f"device {name!r} is unknown. Use auto, {', '.join(there)}, or one by its number: cuda:1.")
    if not there[kind] or int(index or 0) >= (torch.cuda.device_count() if kind == "cuda" else 1):
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
