"""What theta is of: which of its tensors are learned, and whether it is this learner's at all.

`Learner.init` is asked, once: it makes a theta, in which `metaloop.nn.fixed` tells what is not learned.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..core import Learner, Theta
from ..nn.functional import STATISTICS, stays
from ..torch_private import pytree
from .checkpoint import flatten, unflatten


@lru_cache(maxsize=32)
def _outline(init: Any) -> dict[str, str]:
    named = lambda theta: flatten(theta, "theta") if _of_tensors(theta) else {}
    return stays(init, named)


def _of_tensors(theta: Any) -> bool:
    return all(isinstance(t, Tensor) for t in pytree.tree_leaves(theta))


def drawn(learner: Learner, seed: int) -> Theta:
    """learner.init(seed). Raises ValueError where a leaf of it is no tensor."""
    theta = learner.init(seed)
    for path, leaf in pytree.tree_flatten_with_path(theta)[0]:
        if not isinstance(leaf, Tensor):
            told = f"theta{pytree.keystr(path)} is a {type(leaf).__name__}"
            raise ValueError(f"init: {told}, expected a tensor. Wrap it in torch.tensor.")
    return theta


def outline(learner: Learner) -> dict[str, str]:
    """The tensors of the learner's theta by name, each with what `stays` says of it: "" if it is learned.

    Empty for a learner whose init makes no theta.
    """
    return _outline(learner.init)


def fixed_leaves(learner: Learner, theta: Theta) -> list[bool]:
    """For each tensor of theta, whether it is one that is not learned."""
    known = outline(learner)
    return [bool(known.get(name)) for name in flatten(theta, "theta")]


def check(call: str, learner: Learner, theta: Theta) -> None:
    """Raise ValueError unless theta is a pytree of tensors under the names that the learner's own has. Statistics that
    another norm policy keeps may stand beside them."""
    if not _of_tensors(theta):
        raise ValueError(f"{call}: theta is {type(theta).__name__}, expected a pytree of tensors such as run.theta.")
    ours, theirs = outline(learner), flatten(theta, "theta")
    found = [f"holds no {n!r}" for n in ours if n not in theirs] + [
        f"holds {n!r}" for n in theirs if n not in ours and not n.endswith(STATISTICS)
    ]
    if ours and found:
        raise ValueError(f"{call}: theta {found[0]}: it is of another learner or architecture. Give run.theta.")


def not_finite(learner: Learner, theta: Theta) -> list[str]:
    """The names of the learned tensors that are not finite; a fixed one (a mask) may hold what it likes."""
    fixed = fixed_leaves(learner, theta)
    named = flatten(theta, "theta")
    return [n for (n, t), still in zip(named.items(), fixed, strict=True) if not (still or t.isfinite().all())]


def opened(learner: Learner, like: Theta, tensors: dict[str, Tensor], source: str) -> Theta:
    """A theta like `like` from the tensors of a checkpoint. Older ones lack buffers of whole numbers: these are like's.

    Raises ValueError if it is another learner's.
    """
    named = flatten(like, "theta")
    lacking = {n: named[n] for n, kind in outline(learner).items() if kind == "whole" and n not in tensors}
    return unflatten({**tensors, **lacking}, like, "theta", source)


def without_fixed(learner: Learner, grads: Theta) -> Theta:
    """Gradients like theta, zero for what is fixed."""
    if not any(outline(learner).values()):  # asked at each step, of most learners
        return grads
    fixed, (leaves, spec) = fixed_leaves(learner, grads), pytree.tree_flatten(grads)
    return pytree.tree_unflatten(
        [torch.zeros_like(g) if still else g for g, still in zip(leaves, fixed, strict=True)], spec
    )
