"""Rows of numbers, each column measured by its own spread."""

from typing import Any

import torch
from torch import Tensor


class Numbers:
    """z = (x - m) / s, the columns' mean and standard deviation over the examples that `fit` was told."""

    name = "the numbers themselves"
    kind = "arrays"

    def __init__(self, mean: Tensor | None = None, spread: Tensor | None = None):
        self.mean, self.spread = mean, spread

    def fit(self, examples: Any) -> "Numbers":
        x = torch.as_tensor(examples).float().flatten(1)
        return Numbers(x.mean(0), x.std(0, correction=0).clamp_min(1e-9))

    def __call__(self, examples: Any) -> Tensor:
        x = torch.as_tensor(examples).float().flatten(1)
        if self.mean is None or self.spread is None:
            return x
        if x.shape[1] != len(self.mean):
            raise ValueError(f"examples of {x.shape[1]} numbers, expected {len(self.mean)}.")
        return torch.where(self.spread > 1e-9, (x - self.mean) / self.spread, 0.0)

    def spec(self) -> dict[str, Any]:
        return {"features": "numbers"}

    def tensors(self) -> dict[str, Tensor]:
        return {} if self.mean is None or self.spread is None else {"mean": self.mean, "spread": self.spread}


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Numbers:
    return Numbers(tensors.get("mean"), tensors.get("spread"))
