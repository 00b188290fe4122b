"""Networks of recipes by name, so that a row says which one it is of. The smaller ones are for quick budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import metaloop as ml

if TYPE_CHECKING:
    from ..nn import Backbone

Name = Literal["conv4", "resnet12", "resnet12-quarter", "resnet12-tiny", "resnet18", "resnest14", "vit", "vit-small"]

RESIDUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet12": ("resnet12", {}),
    "resnet12-quarter": ("resnet12", {"widths": (16, 40, 80, 160)}),  # a sixteenth of the arithmetic
    "resnet12-tiny": ("resnet12", {"widths": (4, 8, 8, 8)}),
    "resnet18": ("resnet18", {}),
    "resnest14": ("resnest", {}),
}
ATTENDING: dict[str, dict[str, Any]] = {
    "vit": {"patch": 12, "dim": 192, "depth": 6, "heads": 3},
    "vit-small": {"patch": 14, "dim": 96, "depth": 4, "heads": 3},
}


def network(
    name: str, shape: tuple[int, ...], *, norm_policy: str, out: int | None = None, **of_conv4: Any
) -> Backbone:  # fmt: skip
    """The network of that name for pictures of this shape. of_conv4: its further options, of no other's.

    A ViT has layer norms whatever norm_policy says. Raises ValueError on a name that is none.
    """
    if name == "conv4":
        return ml.nn.conv4(shape, out=out, norm_policy=norm_policy, **of_conv4)
    if name in RESIDUAL:
        kind, sizes = RESIDUAL[name]
        return getattr(ml.nn, kind)(shape, out=out, norm_policy=norm_policy, **sizes)
    if name in ATTENDING:
        return ml.nn.vit(shape, out=out, **ATTENDING[name])
    raise ValueError(f"network: {name!r}, expected one of conv4, {', '.join([*RESIDUAL, *ATTENDING])}.")
