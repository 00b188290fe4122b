"""What a training is, as far as it can be told: what run.json keeps of it, so that resuming goes on with the same.

A learner, an optimizer or a schedule is code. What can be told of code is what it was made with: the numbers, words,
modules and functions that it closes over, by the names they have there.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from ..core import Learner, Task

LOOKS = "first task"
DEEP, LONG, MANY = 8, 200, 64  # levels; characters; entries


def of_training(
    learner: Learner, pool: Any, optimizer: torch.optim.Optimizer, scheduler: Any, first: Task | None, **more: Any
) -> dict[str, Any]:  # fmt: skip
    """What decides the weights, in one table. first: a task of the pool, to know its data by. more: numbers of a step
    and options."""
    groups = [_options(group) for group in optimizer.param_groups]
    options = groups[0] if len(groups) == 1 else {f"group {i}": group for i, group in enumerate(groups)}
    parts = {name: getattr(learner, name) for name in ("init", "adapt", "objective", "scheduled")}
    outline: dict[str, Any] = {name: told(getattr(pool, name, None)) for name in ("name", "kind", "shape", "classes")}
    known = {name: value for name, value in outline.items() if value is not None}
    return {
        **told(more),
        "learner": told(parts),
        "pool": known | ({} if first is None else {LOOKS: _looks(first)}),
        "optimizer": {"class": type(optimizer).__name__, **told(options)},
        "schedule": {
            "class": None if scheduler is None else type(scheduler).__name__,
            **({} if scheduler is None else told(scheduler.state_dict())),
        },
    }


def differences(was: Any, now: Any, at: str = "") -> list[tuple[str, Any, Any]]:
    """Where two tables differ, with both values; what only one of them knows counts as the same."""
    if isinstance(was, dict) and isinstance(now, dict):
        each = [differences(was[name], now[name], f"{at}.{name}" if at else name) for name in now if name in was]
        return [difference for some in each for difference in some]
    if at.endswith(f".{LOOKS}") and isinstance(was, list) and len(was) == len(now):
        close = lambda a, b: a == b or math.isclose(a, b, rel_tol=1e-3, abs_tol=1e-4)  # on another machine
        return [] if all(map(close, was, now)) else [(at, was, now)]
    return [] if was == now else [(at, was, now)]


def told(thing: Any) -> Any:
    """What a thing was made with, JSON-able: values as they are, tensors by form and digest, modules as torch prints
    them, functions and partial applications by name and what they close over, other objects by class and values.
    Empty collections, which may be there to be filled, are left out."""
    return json.loads(json.dumps(_told(thing, {}, DEEP)))


def _told(thing: Any, seen: dict[int, Any], levels: int) -> Any:
    if thing is None or isinstance(thing, bool | int | float | str):
        return str(thing) if isinstance(thing, float) and not math.isfinite(thing) else thing
    if isinstance(thing, Tensor):
        return f"{thing.dtype} {[*thing.shape]} {_digest(thing)}".removeprefix("torch.")
    if isinstance(thing, torch.dtype | torch.device | range | complex | bytes):
        return str(thing)
    if id(thing) in seen or levels == 0:
        return "..."
    within = lambda one: _told(one, seen, levels - 1)
    if isinstance(thing, Mapping):
        return _few({str(name): within(value) for name, value in thing.items() if not _empty(value)})
    if isinstance(thing, list | tuple):
        return _few([within(value) for value in thing])
    if isinstance(thing, set | frozenset):
        return _few(sorted(str(within(value)) for value in thing))
    seen[id(thing)] = thing
    if isinstance(thing, nn.Module):
        numbers = [(name, sorted(_values(module).items())) for name, module in thing.named_modules()]
        return f"{_short(repr(thing))} {_sum(str(numbers))}"
    if isinstance(thing, functools.partial):
        return {"function": within(thing.func), "args": [*map(within, thing.args)],
                **{name: within(value) for name, value in thing.keywords.items()}}  # fmt: skip
    if isinstance(thing, types.MethodType):
        return {"function": thing.__name__, "of": within(thing.__self__)}
    if isinstance(thing, types.FunctionType):
        return _function(thing, within)
    if isinstance(getattr(thing, "module", None), nn.Module):  # a functional network
        return within(thing.module)
    if isinstance(name := getattr(thing, "__name__", None), str):
        return name
    if dataclasses.is_dataclass(thing):
        fields = {field.name: within(getattr(thing, field.name)) for field in dataclasses.fields(thing)}
        return {"class": type(thing).__name__, **fields}
    return {"class": type(thing).__name__, **_values(thing)}


def _function(f: types.FunctionType, within: Callable[[Any], Any]) -> Any:
    """By its name, its defaults and the values that it closes over; a lambda, which has no name, by its code."""
    closed = dict(f.__kwdefaults__ or {})
    if f.__defaults__:
        closed["defaults"] = f.__defaults__
    for name, cell in zip(f.__code__.co_freevars, f.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            closed[name] = cell.cell_contents
    made = {name: within(value) for name, value in closed.items() if not _empty(value)}
    if f.__name__ == "<lambda>":
        code = f.__code__
        text = (code.co_code, code.co_names, [c for c in code.co_consts if not isinstance(c, types.CodeType)])
        made = {f"python {sys.version_info[0]}.{sys.version_info[1]}": _sum(str(text)), **made}
    return {"function": f.__name__, **made} if made else f.__name__


def _options(group: Mapping[str, Any]) -> dict[str, Any]:
    of_the_machine = ("params", "param_names", "capturable", "foreach", "fused")
    return {name: float(v) if isinstance(v, Tensor) and v.numel() == 1 else v
            for name, v in group.items() if name not in of_the_machine}  # fmt: skip


def _looks(task: Task) -> list[float]:
    """A task's data in two numbers for each part: the means of its inputs and of their squares."""
    parts = [data.x.detach().double() for data in (task.support, task.query)]
    return [float(f"{number.item():.5g}") for x in parts for number in (x.mean(), x.square().mean())]


def _values(thing: Any) -> dict[str, Any]:
    """An object's attributes that are numbers, words or switches."""
    plain = {n: v for n, v in getattr(thing, "__dict__", {}).items() if isinstance(v, bool | int | float | str)}
    return {name: str(value) if isinstance(value, float) else value for name, value in plain.items() if name[0] != "_"}


def _empty(thing: Any) -> bool:
    return isinstance(thing, list | dict | set | tuple) and not thing


def _few(entries: Any) -> Any:
    return entries if len(entries) <= MANY else f"{len(entries)} entries {_sum(json.dumps(entries))}"


def _short(text: str) -> str:
    text = re.sub(r"\s+", " ", re.sub(r" at 0x[0-9a-fA-F]+", "", text))
    return text if len(text) <= LONG else f"{text[:LONG]}... {_sum(text)}"


def _sum(text: str) -> str:
    return hashlib.sha256(re.sub(r" at 0x[0-9a-fA-F]+", "", text).encode()).hexdigest()[:8]


def _digest(t: Tensor) -> str:
    try:
        data = t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    except (RuntimeError, TypeError, NotImplementedError):  # one without numbers here
        return ""
    return hashlib.sha256(data).hexdigest()[:8]
