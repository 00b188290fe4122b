"""Pictures as their pixels, without any learned weights."""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor


class Pixels:
    """A picture shrunk to size x size, three colours in [0, 1], as a vector of length 1."""

    kind = "pictures"

    def __init__(self, size: int = 32):
        self.size = size
        self.name = f"pixels {size}x{size}"

    def __call__(self, examples: Any) -> Tensor:
        z = shrunk(examples, self.size).flatten(1)
        return z / z.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def spec(self) -> dict[str, Any]:
        return {"features": "pixels", "size": self.size}

    def tensors(self) -> dict[str, Tensor]:
        return {}


def shrunk(examples: Any, size: int) -> Tensor:
    """Pictures as [n, 3, size, size] in [0, 1]: PIL images, or bytes [n, C, H, W] with C = 1 or 3."""
    if isinstance(examples, Tensor):
        x = examples.float() / 255 if examples.dtype == torch.uint8 else examples.float()
        x = x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x
        return torch.nn.functional.interpolate(x, (size, size), mode="bilinear", antialias=True, align_corners=False)
    arrays = [np.asarray(i.convert("RGB").resize((size, size), Image.Resampling.BOX)) for i in examples]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255


def build(spec: dict[str, Any], tensors: dict[str, Tensor]) -> Pixels:
    return Pixels(spec.get("size", 32))
