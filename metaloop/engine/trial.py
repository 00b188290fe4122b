"""A meta-step on trial, before the first is taken: does it do for many tasks what it does for each? Torch's complaints
in one line, with the layer or the call that they are about, and what helps.
"""

import linecache
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..core import Learner, Task, Theta
from ..nn.functional import Net, writes
from ..torch_private import pytree
from .batch import count, meta_gradient
from .checkpoint import flatten
from .seeds import noise, states

OURS, TORCH = Path(__file__).parent.parent, Path(torch.__file__).parent

# What torch says, and what to do about it.
HINTS = (
    (r"one_hot", "Take metaloop.nn.membership(y, ways)"),
    (r"random(ness| operation)|normal_|bernoulli|rsample",
     "Noise in place cannot be drawn task by task: for rsample() write mean + scale * torch.randn_like(mean)"),
    (r"data-dependent control flow", "It branches on values: take torch.where(condition, a, b)"),
    (r"\.item\(\)|_local_scalar_dense", "It reads a number out of a tensor: keep it a tensor"),
    (r"dynamic shape|nonzero|masked_select|data-dependent",
     "It picks elements by their values, which gives tasks different shapes: take torch.where(condition, a, b)"),
    (r"in-?place|doesn't match the broadcast shape", "It writes into a tensor in place: compute a new one"),
    (r"cdist", "Distances of few rows by cdist have no second derivative here: take (a[:, None] - b).square().sum(-1)"),
    (r"attention", "Fused attention has no second derivative here: write out softmax(q @ k.mT) @ v, or call it within "
     "torch.nn.attention.sdpa_kernel(SDPBackend.MATH)"),
    (r"derivative for|not differentiable|double backward|does not require grad",
     "The inner gradient needs a second derivative, which torch does not have here: write the layer out, or take "
     "first_order=True"),
    (r"([Tt]arget|index) \S+ is out of bounds", "Labels over all classes, as pool.flat() deals them, are for pretrain "
     "and margin: give an episodic learner the pool itself"),
    (r"must only return Tensors", "A field of the predictor that is no tensor is marked ml.static()"),
    (r"[('](tuple|dict|list|NoneType)(\)|' object)", "A network's forward must return one tensor"),
    (r"dtype|scalar type|same type", "The network and the examples must be of one dtype: convert the pool's x, or the "
     "network by .float()"),
    (r"shape|size|dimension|channels|Expected .*D", "Give the network the size of the pool's examples, and let it "
     "answer with flat features [n, dim] (nn.Flatten)"),
)  # fmt: skip


@contextmanager
def explained(call: str, about: str = "") -> Iterator[None]:
    """Within this, what is refused by torch or by the learner's own code comes as a ValueError of one line: the layer
    or the line that it is about, the complaint, what helps. about: what was tried."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RecursionError):
        raise
    except (RuntimeError, TypeError, IndexError, KeyError, AttributeError, AssertionError, ValueError) as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        if isinstance(error, ValueError) and not _within(frames[-1], TORCH):  # said by us, or the learner, for people
            raise
        place, said = _place(error), f"no {error}" if isinstance(error, KeyError) else str(error).strip()
        line = re.split(r"\. |\n", said or type(error).__name__)[0].rstrip(".:")
        hint = next((f" {hint}." for pattern, hint in HINTS if re.search(pattern, place + said)), "")
        raise ValueError(f"{call}: {about}{place}{line}.{hint}") from error


def trial(
    learner: Learner, theta: Theta, tasks: Task, *, together: bool, apart: bool, seed: int, **options: Any
) -> None:  # fmt: skip
    """Take the meta-gradient of some tasks in one chunk (`together`), one by one (`apart`), or both, which must agree.

    options: of `meta_gradient`. Raises ValueError, in one line, if torch cannot take it; if theta or the tasks change,
    or the learner writes into a buffer; or if a task's share depends on the tasks beside it.
    """
    given = pytree.tree_map(torch.clone, (theta, tasks))
    found: dict[str, Any] = {}
    with noise(seed, "check", 1), writes() as written:
        before = states()
        if apart:
            with explained("fit"):
                found["apart"] = meta_gradient(learner, **{**options, "chunk": 1})(theta, tasks)[:2]
        if together:
            with explained("fit", f"{count(tasks)} tasks in one chunk: "):
                found["together"] = meta_gradient(learner, **{**options, "chunk": count(tasks)})(theta, tasks)[:2]
        noisy = not all(map(torch.equal, states(), before))
    if written:
        raise ValueError(
            f"fit: the network writes into its buffer '{min(written)}', which would be forgotten: adapt is pure. Give "
            "it in eval mode, or take batch statistics: metaloop.nn.norm(channels, 'running')."
        )
    then, now = (flatten(both, "given") for both in (given, (theta, tasks)))
    if changed := [n for n in then if not torch.equal(then[n].nan_to_num(), now[n].nan_to_num())]:
        what = changed[0].replace("given/0", "theta", 1).replace("given/1", "a task", 1)
        raise ValueError(f"fit: {what} has changed: the learner, or a layer, writes into it. Compute a new one.")
    if len(found) == 2 and not noisy:
        _must_agree(learner, theta, tasks, found, options)


def _must_agree(learner: Learner, theta: Theta, tasks: Task, found: dict[str, Any], options: Any) -> None:
    """Raise ValueError unless both ways found the same but for rounding; what looks otherwise is redone in float64."""
    eps = max(torch.finfo(t.dtype).eps for t in pytree.tree_leaves(theta))
    off, name = _apart(found["together"], found["apart"])
    if not off > 1e4 * eps:
        return
    doubled = pytree.tree_map(lambda t: t.double() if t.is_floating_point() else t, (theta, tasks))
    try:
        at = lambda n: meta_gradient(learner, **{**options, "chunk": n})(*doubled)[:2]
        off, name = _apart(at(count(tasks)), at(1))
        limit = 1e-6
    except Exception:  # a network that holds another dtype inside
        limit = 0.05
    if off > limit:
        raise ValueError(
            f"fit: two tasks in one chunk give another meta-gradient than one by one, off by {off:.2g} of its norm, "
            f"most in {name}: some layer looks at its whole batch, across tasks. Replace it, or take chunk=1."
        )


def _apart(ours: Any, theirs: Any) -> tuple[float, str]:
    """The distance of two results, as a part of their norm, and where it is largest; NaN where they are not finite."""
    a, b = (flatten(each[0], "theta") | {"the loss": each[1]} for each in (ours, theirs))
    far = {n: (a[n].double() - b[n].double()).norm().item() for n in a}
    size = max(sum(t.double().square().sum().item() for n, t in b.items() if n != "the loss") ** 0.5, 1e-30)
    scale = {n: size for n in a} | {"the loss": max(abs(b["the loss"].item()), 1e-6)}
    name = max(a, key=lambda n: far[n] / scale[n])
    return far[name] / scale[name], name


def _place(error: BaseException) -> str:
    """The innermost layer, and the innermost line of code that is neither torch's nor ours."""
    root = layer = line = None
    for frame, number in traceback.walk_tb(error.__traceback__):
        caller = frame.f_locals.get("self")
        if isinstance(caller, Net):
            root = layer = None
        elif isinstance(caller, nn.Module) and frame.f_code.co_name == "_call_impl":
            root, layer = root or caller, caller
        if not (_within(frame, TORCH) or _within(frame, OURS) or frame.f_code.co_filename.startswith("<")):
            line = frame.f_code.co_filename, number
    names = {id(m): n for n, m in root.named_modules()} if root is not None else {}
    of_layer = f"layer '{names.get(id(layer), '') or type(layer).__name__}' ({type(layer).__name__}): " if layer else ""
    text = linecache.getline(*line).strip() if line else ""
    return of_layer + (f"{Path(line[0]).name}:{line[1]}, `{text}`: " if line and text else "")


def _within(frame: Any, folder: Path) -> bool:
    return Path(frame.f_code.co_filename).is_relative_to(folder)
