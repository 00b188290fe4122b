"""An optimizer and its schedule as a checkpoint has them: to the bit what was saved, or refused by name."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .schema import conform

BY_SCHEDULES = {"lr", "momentum", "betas"}  # what schedules change
OF_THE_MACHINE = {"capturable", "foreach", "fused"}


@dataclass
class Saved:
    """What `checkpoint.optimizer_state` tells beside the tensors; held and finite were not told at first."""

    state: dict[str, dict[str, Any]]
    param_groups: list[dict[str, Any]]
    held: int | None = None
    finite: bool = False


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Any, source: str, *, scheduled: bool,
    still: Sequence[Tensor] = (),
) -> None:  # fmt: skip
    """Give a fresh optimizer the state that was saved. scheduled: whether a schedule changes its learning rate. still:
    parameters that are never moved, of which it may have no state.

    Raises ValueError if a tensor of the state is missing, of another shape or dtype than this optimizer has after a
    step, or not finite though it was; or if the optimizer's settings are others.
    """
    saved, whole = conform(rest, Saved, source, "optimizer"), {}
    named = {name: t for name, t in tensors.items() if name.startswith("optimizer/")}
    for index, entries in saved.state.items():
        whole.setdefault(index, {}).update(entries)
    for name, t in named.items():
        _, index, key = name.split("/", 2)
        whole.setdefault(index, {})[key] = t
        if saved.finite and not t.isfinite().all():
            raise ValueError(f"{source} is damaged: '{name}' holds numbers that are not finite.")
    _check_groups(optimizer, saved.param_groups, source, scheduled)
    if whole or saved.held:
        _check_state(optimizer, whole, source, still)
    if saved.held not in (None, len(named)):
        raise ValueError(f"{source} is damaged: {len(named)} tensors of the optimizer are left of {saved.held}.")
    ours = [dict(group) for group in optimizer.param_groups]
    state = {int(index): dict(entries) for index, entries in whole.items()}
    try:
        optimizer.load_state_dict({"state": state, "param_groups": copy.deepcopy(saved.param_groups)})
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{source} is of another optimizer ({str(error).partition(chr(10))[0]}).") from None
    for fresh, group in zip(ours, optimizer.param_groups, strict=True):
        if missing := sorted(fresh.keys() - group.keys()):
            raise ValueError(f"{source}: the optimizer's '{missing[0]}' is missing.")
        for name, value in fresh.items():  # tensors of one number are numbers in a file
            if isinstance(value, Tensor) or (isinstance(value, tuple) and any(isinstance(v, Tensor) for v in value)):
                group[name] = _as(value, group[name])
    every = [p for group in optimizer.param_groups for p in group["params"]]
    for name, t in named.items():  # torch brings a state into its parameter's dtype
        _, index, key = name.split("/", 2)
        kept = optimizer.state[every[int(index)]]
        if isinstance(kept.get(key), Tensor) and kept[key].dtype != t.dtype:
            kept[key] = t.to(kept[key].device, copy=True)


def restore_scheduler(scheduler: Any, optimizer: torch.optim.Optimizer, state: Any, source: str) -> None:
    """The same for the schedule; state: what was saved, None if there was none."""
    if (scheduler is None) != (state is None):
        was, now = ("without", "with") if state is None else ("with", "without")
        raise ValueError(f"{source} was trained {was} a schedule, now it is one {now}. Resume with the same.")
    if scheduler is None:
        return
    fresh = scheduler.state_dict()
    conform(state, dict[str, Any], source, "scheduler")
    for name, value in fresh.items():
        if name not in state and not name.startswith("_"):
            raise ValueError(f"{source} is of another schedule: it has no '{name}'.")
        if name in state and not _alike(_plain(value), state[name]):
            raise ValueError(f"{source}: the schedule's '{name}' is {state[name]!r}, which is not what this one has.")
    told = lambda rates: rates == [float(group["lr"]) for group in optimizer.param_groups]
    scheduler.load_state_dict(state)
    last = state.get("_last_lr")
    if isinstance(last, list) and not told(last):
        raise ValueError(f"{source} is damaged: the optimizer's learning rate is not its schedule's.")


def _check_groups(optimizer: torch.optim.Optimizer, groups: list[dict[str, Any]], source: str, scheduled: bool) -> None:
    own, of_torch = optimizer.state_dict()["param_groups"], type(optimizer).__module__.startswith("torch.optim")
    if [group["params"] for group in own] != [group.get("params") for group in groups]:
        raise ValueError(f"{source} is of an optimizer of other parameters.")
    for ours, theirs in zip(own, groups, strict=True):
        for name in (ours.keys() & theirs.keys()) - {"params", *OF_THE_MACHINE}:
            now, was = _plain(ours[name]), theirs[name]
            free = not of_torch or (scheduled and name in BY_SCHEDULES)
            if now != was and not (free and _alike(now, was)):
                raise ValueError(f"{source} was trained with the optimizer's {name}={was!r}, now it is {now!r}.")


def _check_state(
    optimizer: torch.optim.Optimizer, found: dict[str, dict[str, Any]], source: str, still: Sequence[Tensor]
) -> None:  # fmt: skip
    """That what an optimizer has after a step is there, and of its kind; of torch's optimizers, nothing else."""
    steady = _expected(optimizer)
    if steady is None:
        return
    every = [p for group in optimizer.param_groups for p in group["params"]]
    free = [i for i, p in enumerate(every) if str(i) not in found and any(p is t for t in still)]
    for index, entries in steady.items():
        for key, value in entries.items() if index not in free else ():
            name, was = f"optimizer/{index}/{key}", found.get(str(index), {}).get(key)
            if was is None and value is not None:
                raise ValueError(f"{source} is damaged or of another optimizer: it holds no '{name}'.")
            if isinstance(value, Tensor) != isinstance(was, Tensor):
                raise ValueError(f"{source}: '{name}' is {type(was).__name__}, expected {type(value).__name__}.")
            if not isinstance(value, Tensor) or not isinstance(was, Tensor):
                if not _alike(_plain(value), was):
                    raise ValueError(f"{source}: '{name}' is {was!r}, expected a value such as {value!r}.")
            elif (was.dtype, was.shape) != (value.dtype, value.shape):
                ours, theirs = (f"{t.dtype} of shape {tuple(t.shape)}" for t in (value, was))
                raise ValueError(f"{source}: '{name}' is {theirs}, this optimizer has {ours}.")
    if type(optimizer).__module__.startswith("torch.optim"):
        for index, entries in found.items():
            for key in entries:
                if not index.isdecimal() or key not in steady.get(int(index), {}):
                    raise ValueError(f"{source} holds 'optimizer/{index}/{key}', unknown here: of another optimizer.")


def _expected(optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Any]] | None:
    """The state of a copy after a step, without what a second step makes of another form; None if it cannot be told."""
    try:
        trial, seen = copy.deepcopy(optimizer), []
        with torch.random.fork_rng(devices=[]):
            for _ in range(2):
                for p in (p for group in trial.param_groups for p in group["params"]):
                    p.grad = torch.zeros_like(p)
                trial.step()
                seen.append({i: dict(entries) for i, entries in trial.state_dict()["state"].items()})
    except Exception:  # an optimizer that cannot be copied, or asks for more than gradients
        return None
    form = lambda value: value.shape if isinstance(value, Tensor) else type(value)
    first, second = seen
    return {
        i: {key: value for key, value in entries.items() if form(second[i].get(key)) == form(value)}
        for i, entries in first.items()
    }


def _plain(value: Any) -> Any:
    """A value as it comes back from a file."""
    return json.loads(json.dumps(value, default=lambda v: float(v) if hasattr(v, "__float__") else str(type(v))))


def _as(value: Any, told: Any) -> Any:
    """Numbers out of a file, as tensors where those of `value` are."""
    if isinstance(value, Tensor):
        return torch.full_like(value, told)
    return tuple(map(_as, value, told)) if isinstance(value, tuple) else told


def _alike(ours: Any, theirs: Any) -> bool:
    """Whether two values are of one kind."""
    number = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    if ours is None or theirs is None or (number(ours) and number(theirs)):
        return True
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_alike, ours, theirs))
    return type(ours) is type(theirs)
