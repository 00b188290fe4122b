"""Examples as Python holds them: PIL images, texts, bytes, numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..features import at_hand
from .predictor import Own, digest, make


def fit(x: Any, y: Tensor, ways: int) -> Own:
    """f of examples x, see `kind_of`, with classes y int64 [n] in 0 .. ways-1; its classes are called by their
    numbers."""
    kind, examples = kind_of(x)
    marks = [digest(one.tobytes() if hasattr(one, "tobytes") else str(one).encode()) for one in _each(examples)]
    names = [f"{k:06d}" for k in range(ways)]
    return make(at_hand(kind, examples), examples, y, names, [str(i) for i in range(len(marks))], marks)


def probabilities(f: Own, x: Any) -> Tensor:
    """p of each class, [q, K]. Raises ValueError if x are of another kind, or of another width, than what f was made
    of."""
    kind, examples = kind_of(x)
    if kind != f.kind:
        raise ValueError(f"f was made of {f.kind}, and is asked about {kind}.")
    return f.answers(examples).p


def kind_of(x: Any) -> tuple[str, Any]:
    """What examples are, and they in the form that features take: PIL images, bytes [n, H, W], [n, C, H, W] or [n, H,
    W, C] with C = 1 or 3, and numbers of that shape from 0 to 1 are pictures; a list of str are texts; a tensor of
    another shape is arrays."""
    if not isinstance(x, Tensor):
        if all(isinstance(one, Image.Image) for one in x):
            return "pictures", list(x)
        return "texts", [str(one) for one in x]
    if x.dim() == 4 and x.shape[1] not in (1, 3) and x.shape[3] in (1, 3):
        x = x.permute(0, 3, 1, 2)
    if x.dim() == 3 and min(x.shape[1:]) >= 8:
        x = x[:, None]
    if x.dim() == 4 and x.shape[1] in (1, 3) and min(x.shape[2:]) >= 8:
        if x.dtype == torch.uint8:
            return "pictures", x
        if x.is_floating_point() and x.min() >= 0 and x.max() <= 1:
            return "pictures", (x * 255).round().to(torch.uint8)
    return "arrays", x.flatten(1).double()


def is_list_of(x: Any, kind: type) -> bool:
    """Whether x is a list or another sequence of that kind alone."""
    return isinstance(x, Sequence) and not isinstance(x, str) and len(x) > 0 and all(isinstance(i, kind) for i in x)


def _each(examples: Any):
    return examples.numpy() if isinstance(examples, Tensor) else examples
