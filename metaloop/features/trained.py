"""What a trained run sees in a picture: its embedding, where it has one that does not depend on the task.

    z = embed(theta, x)

for a picture x in the run's own size and colours, theta as it was meta-trained: of a metric learner (`protonet`,
`margin`, `matching`, `siamese`, `relation`, ...), or of what was pretrained. A predictor's file holds theta, and does
not need the run.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..engine.checkpoint import flatten
from ..engine.predictor import adapt, embedding
from ..engine.run import Run
from ..engine.theta import not_finite, opened
from ..nn.functional import at_meta_test
from ..recipes.stored import open_run, outlined, told
from ..tasks.decode import fitted
from .efficientnet import images

BATCH = 200  # pictures at a time


class Unfit(ValueError):
    """A run of another kind: it has no embedding of pictures that is the same in all tasks."""


class Trained:
    """Pictures as float32 [n, d]. Raises Unfit if the run is of another kind, ValueError if it is damaged.

    name: what a person is told; made: what the run's file says of its recipe; learner: as at meta-test.
    """

    kind = "pictures"

    def __init__(self, name: str, made: dict[str, Any], learner: Any, theta: Any):
        self.name, self.made, self.theta = name, made, theta
        self.shape = tuple(made["pool"]["shape"])
        if len(self.shape) != 3 or self.shape[0] not in (1, 3):
            raise Unfit(f"{name} was not trained on pictures.")
        if not_finite(learner, theta):
            raise ValueError(f"{name} is damaged: its theta holds numbers that are not finite.")
        optimizes = isinstance(theta, dict) and set(theta) == {"m", "scale"}
        probe = torch.rand(6, *self.shape, generator=torch.Generator().manual_seed(0))
        seen = lambda x: None if optimizes else embedding(adapt(learner, theta, x, torch.tensor([0, 1]), ways=2))
        first, second = seen(probe[:2]), seen(probe[2:4])
        if first is None or second is None:
            raise Unfit(f"{name} has no embedding: give the run of a metric, such as protonet's.")
        one, other = _answers(first, probe), _answers(second, probe)
        alone = torch.cat([_answers(first, x[None]) for x in probe])
        if not torch.allclose(one, other, atol=1e-4) or not torch.allclose(one, alone, atol=1e-4):
            raise Unfit(f"{name} sees a picture differently in each task: its features are no picture's own.")
        self._embed = first

    def __call__(self, examples: Any) -> Tensor:
        x = [torch.from_numpy(fitted(image, self.shape)) for image in images(examples)]
        parts = (torch.stack(x[at : at + BATCH]).float() / 255 for at in range(0, len(x), BATCH))
        return torch.cat([_answers(self._embed, part) for part in parts])

    def spec(self) -> dict[str, Any]:
        return {"features": "trained", "name": self.name, "made": self.made}

    def tensors(self) -> dict[str, Tensor]:
        return flatten(self.theta, "theta")


def of_run(run: Run | str | Path) -> Trained:
    """The features of a recipe's run, or of its folder. Raises Unfit, a ValueError, if it has none; ValueError if it
    is damaged."""
    run = run if isinstance(run, Run) else open_run(run)
    return Trained(str(run.folder), json.loads(json.dumps(told(run))), run.plan.at_test(ways=2), run.theta)


def runs_in(folder: Path) -> tuple[list[Trained], list[str]]:
    """The features of the runs in a folder, as far as they have any; and what is to be said of those that cannot be
    read."""
    found, bad = list[Trained](), list[str]()
    for place in sorted(p.parent for p in folder.glob("*/run.json")):
        try:
            found.append(of_run(place))
        except Unfit:
            continue
        except ValueError as error:
            bad.append(str(error) if str(place) in str(error) else f"{place}: {error}")
    return found, bad


def build(spec: dict[str, Any], tensors: Mapping[str, Tensor]) -> Trained:
    name, made = spec.get("name", ""), spec.get("made", {})
    source = f"the predictor's run '{name}'"
    plan = outlined(made, source)
    theta = opened(plan.learner, plan.learner.init(0), dict(tensors), source)
    return Trained(name, made, plan.at_test(ways=2), theta)


def _answers(embed: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.no_grad(), at_meta_test():
        return embed(x).float()
