"""Runs and predictors that recipes made, read back from their files."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Data
from ..engine import predictor
from ..engine.run import Run, read_info, versions
from ..tasks.pool import Outline
from ..torch_private import pytree
from . import find
from .plan import Plan


def open_run(folder: str | Path) -> Run:
    """The run that `metaloop train` left in a folder, at its newest checkpoint.

    Its plan stands on an outline of the pool: `run.plan.at_test(ways=7)` works, data are not read.
    Raises ValueError if the folder holds no such run, or a damaged one.
    """
    info = read_info(Path(folder))
    if "recipe" not in info:
        raise ValueError(f"{folder} was not trained by a recipe. Open it with metaloop.Run.open(folder, learner).")
    plan = _plan(info, str(Path(folder) / "run.json"))
    return Run.open(folder, plan.learner, at_test=plan.rows[0].learner, plan=plan)


def save_predictor(path: str | Path, run: Run, x: Tensor, y: Tensor, classes: list[str]) -> Any:
    """Adapt a recipe's run to x [n, C, H, W] with labels y [n], one of `classes` each; keep the predictor in a file."""
    learner = run.plan.at_test(ways=len(classes))
    f = predictor.adapt(learner, run.theta, x, y, ways=len(classes))
    told = ("recipe", "settings", "budget", "steps", "pool", "seed")
    about = {name: run.info[name] for name in told if name in run.info}
    predictor.save(path, f, {**about, "step": run.step, "classes": classes, "support": len(x), "versions": versions()})
    return f


def load_predictor(path: str | Path) -> tuple[Any, dict[str, Any]]:
    """(f, about): a predictor that `save_predictor` kept, and what is known of it: its recipe, its classes.

    Raises ValueError if the file is damaged or holds something else.
    """
    return predictor.load(path, _structure)


def _structure(about: dict[str, Any]) -> Any:
    """A predictor without numbers: the learner adapts on the meta device, to as many examples as it was given."""
    plan = _plan(about, "the predictor's file")
    learner = plan.at_test(ways=len(about["classes"]))
    theta = pytree.tree_map(lambda t: t.to("meta"), plan.learner.init(0))
    n, shape = about["support"], about["pool"]["shape"]
    x, y = torch.zeros(n, *shape, device="meta"), torch.zeros(n, dtype=torch.long, device="meta")
    with torch.no_grad():
        return learner.adapt(theta, Data(x, y))


def _plan(info: dict[str, Any], source: str) -> Plan:
    """The plan as it was: by the settings that were kept, or, where none were yet, by those of its budget."""
    how = {"settings": dict} if "settings" in info else {"budget": str}
    known = {"recipe": str, "pool": dict, "steps": int, **how}
    if wrong := [name for name, kind in known.items() if not isinstance(info.get(name), kind)]:
        raise ValueError(f"{source} is damaged: it does not say '{wrong[0]}'.")
    try:
        outline = Outline(**info["pool"])
    except TypeError:
        raise ValueError(f"{source} is damaged: what it says of the pool is not whole.") from None
    return find(info["recipe"]).plan(outline, steps=info["steps"], **{name: info[name] for name in how})
