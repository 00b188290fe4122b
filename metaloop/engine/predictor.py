"""From labelled examples of your own to a predictor, and predictors on disk."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Data, Learner, Task, Theta
from ..nn.functional import at_meta_test
from . import checkpoint
from .device import float32
from .evaluate import check_labels, check_outputs
from .seeds import generator
from .theta import check


def adapt(learner: Learner, theta: Theta, x: Tensor, y: Tensor, *, ways: int, call: str = "adapt") -> Callable:
    """f = F_theta(S) for examples x [n, ...] with labels y [n] in 0 .. ways-1, taken in an order drawn once for all.

    Raises ValueError if theta is another learner's, if a label is out of range, or if the learner cannot tell `ways`
    classes apart.
    """
    check(call, learner, theta)
    support = in_order(x, y)
    alone = Task(*(Data(d.x[None], d.y[None]) for d in (support, Data(x[:1], y[:1]))))
    check_labels(call, alone, ways)
    check_outputs(call, learner, theta, alone, ways)
    return adapted(learner, theta, support)


def adapted(learner: Learner, theta: Theta, support: Data) -> Callable:
    """F_theta(S) as `adapt` has it, of a learner that was tried with a support set of this size."""
    with torch.no_grad(), at_meta_test(), float32(support.x.device):
        return learner.adapt(theta, support)


def in_order(x: Tensor, y: Tensor) -> Data:
    """n examples in the order in which `adapt` takes them."""
    order = taken(len(x)).to(x.device)
    return Data(x[order], y[order])


def taken(n: int) -> Tensor:
    """The order in which `adapt` takes n examples."""
    return torch.randperm(n, generator=generator(0, "support", 0))


def probabilities(f: Callable, x: Tensor, *, ways: int) -> Tensor:
    """p(y | x) over the first `ways` classes, [n, ways]: f.probabilities(x) where f offers it, else softmax f(x).

    Raises ValueError where they are not finite.
    """
    together = "transductive" in policies(f)  # then the examples of a call are normalised by each other
    own = getattr(f, "probabilities", None)
    with torch.no_grad(), at_meta_test(), float32(x.device):
        parts = x.split(len(x) if together else 200)
        if own is None:
            p = torch.cat([f(part)[:, :ways].softmax(-1) for part in parts])
        else:
            p = torch.cat([own(part)[:, :ways] for part in parts])
            p = p / p.sum(-1, keepdim=True)
    if lost := int((~p.isfinite().all(-1)).sum()):
        raise ValueError(
            f"the predictor answers NaN or infinite numbers to {lost} of {len(x)} examples, which have no class. "
            "Lower the inner learning rate."
        )
    return p


def policies(f: Any) -> frozenset[str]:
    """The norm policies of the networks in a predictor."""
    return frozenset().union(*(getattr(part, "policies", ()) for part in vars(f).values()))


def embedding(f: Any) -> Callable[[Tensor], Tensor] | None:
    """What a metric learner's predictor compares examples by, if it has such."""
    if (found := network(f)) is None:
        return None
    embed, params = found
    return lambda x: embed(params, x).flatten(1)


def network(f: Any) -> tuple[Callable, Any] | None:
    """The network of `embedding`, and its parameters."""
    embed, theta = getattr(f, "embed", None), getattr(f, "theta", getattr(f, "net", None))
    if embed is None or theta is None or hasattr(f, "memory"):
        return None
    return embed, theta["embed"] if isinstance(theta, dict) and isinstance(theta.get("embed"), dict) else theta


def save(path: str | Path, f: Any, about: dict[str, Any]) -> None:
    """Keep a predictor's tensors, with what is needed to build its structure anew.

    Raises ValueError on a full disk, and if there are numbers in it that are not finite.
    """
    tensors = checkpoint.flatten(f, "f")
    fixed = {n for part in vars(f).values() for n in getattr(part, "fixed", ())}  # may hold what they like: masks
    if bad := [n for n, t in tensors.items() if n.rpartition("/")[2] not in fixed and not t.isfinite().all()]:
        raise ValueError(f"{path}: the predictor's '{bad[0]}' is not finite; nothing is kept. Are the examples?")
    checkpoint.write(Path(path), tensors, {"predictor": about})


def load(path: str | Path, like: Callable[[dict[str, Any]], Any]) -> tuple[Any, dict[str, Any]]:
    """(f, about) as saved; like(about) -> a predictor of the same structure, whose tensors do not matter.

    Raises ValueError if the file is damaged, holds no predictor, or one of another structure, or numbers that are not
    finite.
    """
    tensors, known = read(path)
    return restored(tensors, like(known), path), known


def restored(tensors: Mapping[str, Tensor], like: Any, path: str | Path) -> Any:
    """f of the tensors that `read` found, of the structure of `like`. Raises ValueError as `load` does."""
    return checkpoint.unflatten(tensors, like, "f", str(path))


def about(path: str | Path) -> dict[str, Any]:
    """What was kept with a predictor. Raises ValueError as `load` does."""
    return read(path)[1]


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A predictor's tensors and what was kept with them. Raises ValueError if the file is damaged or holds none."""
    make = "`metaloop adapt FOLDER -o FILE` makes one"
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, not a predictor. {make}.")
    tensors, meta = checkpoint.read(Path(path))
    if not isinstance(meta, dict) or not isinstance(meta.get("predictor"), dict):
        raise ValueError(f"{path} holds no predictor. {make}.")
    return tensors, meta["predictor"]
