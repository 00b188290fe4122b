"""Rows of numbers, each column measured by its own spread, by how near they are to each other.

Random Fourier features (Rahimi & Recht, Random Features for Large-Scale Kernel Machines, NIPS 2007): with u = (x - m) /
s of d columns, z(x) . z(x') is near exp(-|u - u'|^2 / 2 d), and |z| = 1.
"""

from typing import Any

import torch
from torch import Tensor

WAVES = 512


class Numbers:
    """z = [cos W u, sin W u] / sqrt(512), W drawn once for all from N(0, 1 / d): [n, 1024].

    m and s are the columns' mean and standard deviation over the examples that `fit` was told, in float64: what tells
    classes apart may be small beside m.
    """

    name = "how near the numbers are"
    kind = "arrays"

    def __init__(self, mean: Tensor, spread: Tensor):
        self.mean, self.spread = mean, spread
        d = len(mean)
        self.waves = torch.randn(d, WAVES, generator=torch.Generator().manual_seed(0)) / max(d, 1) ** 0.5

    def __call__(self, examples: Any) -> Tensor:
        x = torch.as_tensor(examples).double().flatten(1)
        if x.shape[1] != len(self.mean):
            raise ValueError(f"examples of {x.shape[1]} numbers, expected {len(self.mean)}.")
        u = torch.where(self.spread > 0, (x - self.mean) / self.spread.clamp_min(1e-30), 0.0).clamp(-1e4, 1e4).float()
        return torch.cat([(u @ self.waves).cos(), (u @ self.waves).sin()], 1) / WAVES**0.5

    def spec(self) -> dict[str, Any]:
        return {"features": "numbers"}

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean, "spread": self.spread}


class Unfitted:
    """`Numbers` before they are told examples."""

    def fit(self, examples: Any) -> Numbers:
        x = torch.as_tensor(examples).double().flatten(1)
        return Numbers(x.mean(0), x.std(0, correction=0))


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Numbers | Unfitted:
    if not tensors:
        return Unfitted()
    mean, spread = tensors.get("mean"), tensors.get("spread")
    if mean is None or spread is None or mean.dim() != 1 or mean.shape != spread.shape:
        raise ValueError("numbers: a mean and a spread for each column were expected: the predictor's file is damaged.")
    return Numbers(mean, spread)
