"""Runs and predictors that recipes made, read back from their files."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Data
from ..engine import predictor
from ..engine.run import Machine, Run, read_info, versions
from ..engine.schema import conform
from ..tasks.pool import Outline
from ..torch_private import pytree
from . import find
from .plan import Plan

LARGEST = 2**31 - 1  # number of anything


@dataclass
class Shape:
    """A pool's outline, as a file tells it."""

    shape: list[int]
    classes: int | None
    kind: str
    name: str

    def __post_init__(self):
        if not self.shape or not all(0 < n <= LARGEST for n in self.shape):
            raise ValueError(f"'pool.shape' is {self.shape}, expected numbers of at least 1")
        if self.classes is not None and not 0 < self.classes <= LARGEST:
            raise ValueError(f"'pool.classes' is {self.classes}")


@dataclass(kw_only=True)
class Made:
    """What the file of a run or a predictor says of the recipe that made it; before settings were kept, its budget."""

    recipe: str
    pool: Shape
    steps: int
    seed: int
    settings: dict[str, Any] | None = None
    budget: str | None = None

    def __post_init__(self):
        if self.settings is None and self.budget is None:
            raise ValueError("it does not say 'settings'")
        if not 0 <= self.steps <= LARGEST:
            raise ValueError(f"'steps' is {self.steps}")


@dataclass(kw_only=True)
class Trained(Made):
    """What run.json says beside."""

    versions: dict[str, str]
    machine: Machine
    data: str | None = None


@dataclass(kw_only=True)
class Adapted(Made):
    """What a predictor's file says beside."""

    classes: list[str]
    support: int

    def __post_init__(self):
        super().__post_init__()
        if len({*self.classes}) < max(2, len(self.classes)):
            raise ValueError(f"'classes' names {len({*self.classes})} classes, {len(self.classes)} times")
        if not 0 < self.support <= LARGEST:
            raise ValueError(f"'support' is {self.support}, expected a number of examples")


def open_run(folder: str | Path, *, newest: bool = False) -> Run:
    """The run that `metaloop train` left in a folder, at the step whose validation was best, or at its newest
    checkpoint.

    Its plan stands on an outline of the pool: `run.plan.at_test(ways=7)` works, data are not read.
    Raises ValueError if the folder holds no such run, or a damaged one.
    """
    info = read_info(Path(folder))
    if "recipe" not in info:
        raise ValueError(f"{folder} was not trained by a recipe. Open it with metaloop.Run.open(folder, learner).")
    source = str(Path(folder) / "run.json")
    made = conform(info, Trained, source)
    with _told_of(source):
        plan = _plan(made)
    return Run.open(folder, plan.learner, at_test=plan.rows[0].learner, plan=plan, newest=newest)


def save_predictor(path: str | Path, run: Run, x: Tensor, y: Tensor, classes: list[str]) -> Any:
    """Adapt a recipe's run to x [n, C, H, W] with labels y [n], one of `classes` each; keep the predictor in a file."""
    learner = run.plan.at_test(ways=len(classes))
    f = predictor.adapt(learner, run.theta, x, y, ways=len(classes))
    about = {"step": run.step, "classes": classes, "support": len(x), "versions": versions()}
    predictor.save(path, f, told(run) | about)
    return f


def told(run: Run) -> dict[str, Any]:
    """What a file says of the run that made it, as far as its plan is made of that."""
    names = ("recipe", "settings", "budget", "steps", "pool", "seed")
    return {name: run.info[name] for name in names if name in run.info}


def outlined(about: Any, source: str) -> Plan:
    """The plan of what `told` says, on an outline of its pool. Raises ValueError if it is of another form."""
    made = conform(about, Made, source)
    with _told_of(source):
        return _plan(made)


def load_predictor(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """(f, about): a predictor that `save_predictor` kept, and what is known of it: its recipe, its classes.

    Raises ValueError if the file is damaged or holds something else.
    """
    return predictor.load(path, lambda about: _structure(about, str(path)))


def any_predictor(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """(f, about) of any predictor's file, which is read once: as `load_predictor` has it; of one made without a run a
    `metaloop.own.predictor.Own`, whose `about` has "own".

    Raises ValueError if the file is damaged or holds something else.
    """
    tensors, about = predictor.read(path)
    if "own" in about:
        from ..own.predictor import load

        return load(tensors, about["own"], str(path)), about
    return predictor.restored(tensors, _structure(about, str(path)), path), about


def _structure(about: dict[str, Any], source: str) -> Any:
    """A predictor without numbers: the learner adapts on the meta device, to as many examples as it was given."""
    made = conform(about, Adapted, source)
    ways = len(made.classes)
    with _told_of(source), torch.no_grad():
        plan = _plan(made)
        theta = pytree.tree_map(lambda t: t.to("meta"), plan.learner.init(0))
        x = torch.zeros(made.support, *made.pool.shape, device="meta")
        y = torch.zeros(made.support, dtype=torch.long, device="meta")
        f = plan.at_test(ways=ways).adapt(theta, Data(x, y))
        known = f(x[:1]).shape[-1]
    if known < ways:
        raise ValueError(f"{source} is damaged: it names {ways} classes, the predictor knows {known}.")
    return f


@contextmanager
def _told_of(source: str) -> Iterator[None]:
    """What a recipe cannot make of settings of another form, it refuses by errors of any kind: a line with the file."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = f"{error}".partition("\n")[0]
        raise ValueError(reason if source in reason else f"{source}: {reason}") from error


def _plan(made: Made) -> Plan:
    """The plan as it was: by the settings that were kept, or, where none were yet, by those of its budget."""
    how: dict[str, Any] = {"settings": made.settings} if made.settings is not None else {"budget": made.budget}
    return find(made.recipe).plan(Outline(**asdict(made.pool)), steps=made.steps, **how)
