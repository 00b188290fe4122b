"""What is shown of learners: their answers to a task, and how they come to them."""

import inspect
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ..core import Data
from ..engine.predictor import adapt, adapted, embedding, in_order, network, policies, probabilities, taken
from ..engine.run import Run
from ..engine.seeds import generator, noise
from ..nn.functional import Net, at_meta_test
from ..own.pictures import KIND
from ..recipes.stored import any_predictor, open_run, save_predictor
from ..targets import CLASSES
from ..tasks.pool import Outline, Pool
from ..torch_private import pytree
from .asked import Asked, Given, Picture, png, since
from .memory import Said, attended, says_again
from .sure import Sure

SAMPLES = 5  # of each class, where a learner can draw them
DESCENT, RATES, UNITS, SIDE = 100, (1e-3, 1e-2, 1e-1), 20, 14  # steps; of Adam; of the small network, and its pictures
REFERENCE = 20  # classes of unseen examples, which say in what plane embeddings are seen


def of_pictures(pictures: Sequence[Picture], shape: tuple[int, ...]) -> Tensor:
    """float32 [n, *shape] from 0 to 1, as `metaloop adapt` reads files."""
    if not pictures:
        return torch.zeros(0, *shape)
    return torch.from_numpy(np.stack([one.fitted(shape) for one in pictures])).float() / 255


def pictured(pool: Any, source: str) -> tuple[int, ...]:
    """The shape of a pool's pictures. Raises ValueError if they are none, or are in no classes."""
    if not pool.pictures or pool.shape[0] not in (1, 3) or pool.target is not CLASSES:
        raise ValueError(f"{source} was not trained on pictures in classes, and the page shows no others.")
    return tuple(pool.shape)


@dataclass
class Made:
    """f of a support set, and what is shown of it."""

    pictures: list[Picture]
    y: list[int]
    x: Tensor
    f: Any
    ms: float  # that it took
    path: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    plane: dict[str, Any] | None = None
    samples: list[list[str]] | None = None


class Trained:
    """A run, which is adapted to whatever is drawn. data: () -> the pool whose test part it never saw."""

    def __init__(self, folder: str, data: Callable[[Run], Pool], run: Run | None = None):
        self.run = open_run(folder) if run is None else run
        self.name, self.shape = Path(folder).name or str(folder), pictured(self.run.plan.pool, folder)
        self._data = data
        takes = inspect.signature(self.run.plan.at_test).parameters
        self.steps, self.usual = [], None
        self._checked: set[tuple[int, int]] = set()
        self._sure: dict[tuple[int, int], Sure] = {}
        self._made: Made | None = None
        self._places: WeakKeyDictionary[Picture, list[float]] = WeakKeyDictionary()
        if "inner_steps" in takes:
            self.usual = takes["inner_steps"].default
            self.steps = sorted({0, self.usual, *self.run.plan.inner_steps})

    def about(self) -> dict[str, Any]:
        told = {"name": self.name, "adapts": True, "kind": "gradient" if self.steps else "other"}
        of = {"recipe": self.run.info["recipe"], "trained": self.run.step, "data": self.run.info["pool"]["name"]}
        return {**told, **of, "steps": self.steps, "usual": self.usual}

    def answer(self, given: Given, asked: Asked) -> dict[str, Any]:
        pictures, y, names, queries = given
        q, ways, made = of_pictures(queries, self.shape), len(names), self.made(pictures, y, len(names))
        p = probabilities(made.f, q, ways=ways) if len(q) else torch.zeros(0, ways)
        shown = {"classes": names, "ms": made.ms, "p": rounded(p)}
        if made.path:
            shown["path"] = [{**entry, "p": rows(f, q, ways)} for f, entry in made.path]
        with torch.no_grad(), at_meta_test():
            if made.plane is not None:
                shown["plane"] = {**made.plane, "queries": self.places(made.f, queries, q)}
            if len(q) and (found := attended(made.f, in_order(made.x, torch.tensor(y)), q)) is not None:
                shown["attends"] = found[0][:, taken(len(y)).argsort()].double().round(decimals=4).tolist()
                shown["slots"] = found[1]
        if made.samples is not None:
            shown["samples"] = made.samples
        return shown | self.sure(ways, min(y.count(k) for k in set(y))).shown(p, asked.coverage, asked.false_accept)

    def made(self, pictures: list[Picture], y: list[int], ways: int) -> "Made":
        """f, and what is shown of it whatever it is asked. The last is kept: a stroke in a query leaves f as it is."""
        last = self._made
        if last is not None and last.y == y and all(a is b for a, b in zip(last.pictures, pictures, strict=True)):
            return last
        x, labels, began = of_pictures(pictures, self.shape), torch.tensor(y), perf_counter()
        f = self.adapted(x, labels, ways)
        made = Made(pictures, y, x, f, since(began))
        with torch.no_grad(), at_meta_test():
            if self.steps:
                made.path = self.path(f, x, labels, ways)
            elif embedding(f) is not None:
                assert self.in_plane is not None
                made.plane = {"support": self.places(f, pictures, x), "y": y, "prototypes": []}
                if (c := prototypes(f, len(self.in_plane[0]))) is not None:
                    made.plane["prototypes"] = self.placed(c)
            if hasattr(f, "sample"):
                made.samples = self.samples(f, ways)
        self._made = made
        return made

    def sure(self, ways: int, shots: int) -> Sure:
        return self._sure.setdefault((ways, shots), Sure(self, ways, shots))

    def adapted(self, x: Tensor, y: Tensor, ways: int, **how: Any) -> Any:
        """f as `engine.predictor.adapt` makes it, which also tries the learner: here once for tasks of a size. how:
        another number of inner steps."""
        learner = self.run.plan.at_test(ways=ways, **how)
        if (ways, len(x)) not in self._checked:
            f = adapt(learner, self.run.theta, x, y, ways=ways)
            self._checked.add((ways, len(x)))
            return f
        return adapted(learner, self.run.theta, in_order(x, y))

    def samples(self, f: Any, ways: int) -> list[list[str]]:
        """Pictures that are drawn from each class's density."""
        with noise(0, "page", 0):
            x = f.sample(SAMPLES)[:, :ways].reshape(SAMPLES, ways, *self.shape)
        pictures = (255 * x.clamp(0, 1)).round().to(torch.uint8).transpose(0, 1).numpy()
        return [[*map(png, of_one)] for of_one in pictures]

    def path(self, usual: Any, x: Tensor, y: Tensor, ways: int) -> list[tuple[Any, dict[str, Any]]]:
        """Of each number of inner steps f, the loss on S, and where phi is, in the plane in which phi moves most.
        usual: f after the usual number."""
        found, phis = [], []
        for steps in self.steps:
            f = usual if steps == self.usual else self.adapted(x, y, ways, inner_steps=steps)
            loss = F.nll_loss(probabilities(f, x, ways=ways).clamp_min(1e-12).log(), y).item()
            found.append((f, {"steps": steps, "loss": round(loss, 4)}))
            phis.append(moved(f))
        if len({len(phi) for phi in phis}) == 1:
            for (_, entry), at in zip(found, main_plane(torch.stack(phis)), strict=True):
                entry["at"] = at
        return found

    def places(self, f: Any, pictures: Sequence[Picture], x: Tensor) -> list[list[float]]:
        """Where f's embedding has pictures, which are x as numbers. One by theta alone has a picture where it had it
        before a stroke in another."""
        embed = embedding(f)
        assert embed is not None
        if not by_theta_alone(f, self.run.theta):
            return self.placed(embed(x)) if len(x) else []
        if new := [i for i, one in enumerate(pictures) if one not in self._places]:
            self._places.update(zip([pictures[i] for i in new], self.placed(embed(x[new])), strict=True))
        return [self._places[one] for one in pictures]

    def placed(self, z: Tensor) -> list[list[float]]:
        """Embeddings in a plane that depends on the run alone, and so stays put."""
        assert self.in_plane is not None
        mean, A, scale = self.in_plane
        return (((z.flatten(1) - mean) @ A) / scale).double().round(decimals=3).tolist()

    @cached_property
    def in_plane(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """`axes` of what the run's embedding makes of unseen examples; None if it has none."""
        x = self.reference
        f = adapt(self.run.plan.at_test(ways=2), self.run.theta, x[:2], torch.tensor([0, 1]), ways=2)
        if (embed := embedding(f)) is None:
            return None
        with torch.no_grad(), at_meta_test():
            return axes(embed(x))

    @cached_property
    def pool(self) -> Pool:
        """The data's test part."""
        return self._data(self.run).test

    @cached_property
    def reference(self) -> Tensor:
        """Unseen examples; noise where the data are not at hand."""
        try:
            task = self.pool.sample(tasks=1, ways=REFERENCE, shots=1, queries=1, generator=generator(0, "page", 0))
        except (ValueError, OSError):
            return torch.rand(2 * REFERENCE, *self.shape, generator=generator(0, "page", 0))
        return torch.cat([task.support.x[0], task.query.x[0]])

    def deal(self, ways: int, shots: int, queries: int, seed: int) -> dict[str, Any]:
        """A task of classes that were not trained on: S by class, Q and its labels; pictures as bytes [C, H, W].

        Raises ValueError where the data are not at hand, or too small.
        """
        task = self.pool.sample(
            tasks=1, ways=ways, shots=shots, queries=queries, generator=generator(seed, "page", 1)
        )  # fmt: skip
        S, Q = (Data((d.x[0] * 255).round().to(torch.uint8), d.y[0]) for d in task)
        if {*S.y.tolist()} != {*range(ways)}:
            raise ValueError(f"{self.name}: its classes have one number in all tasks, so none can be dealt.")
        mixed = torch.randperm(len(Q.y), generator=generator(seed, "page", 2))
        return {"support": [S.x[S.y == k].numpy() for k in range(ways)], "query": Q.x[mixed].numpy(),
                "labels": Q.y[mixed].tolist()}  # fmt: skip

    def file(self, given: Given) -> bytes:
        """The adapted predictor as `metaloop adapt` writes it."""
        pictures, y, names, _ = given
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "predictor.safetensors"
            save_predictor(path, self.run, of_pictures(pictures, self.shape), torch.tensor(y), names)
            return path.read_bytes()


class Fixed:
    """A predictor in a file, which knows its classes."""

    def __init__(self, file: str):
        self.name = Path(file).stem
        self.f, about = any_predictor(file)
        if "own" in about:
            if self.f.kind != KIND:
                raise ValueError(f"{file} answers to {self.f.kind}, not to pictures.")
            self.classes, self.shape = self.f.classes, None
        else:
            self.classes, self.shape = about["classes"], pictured(Outline(**about["pool"]), file)

    def about(self) -> dict[str, Any]:
        return {"name": self.name, "adapts": False, "kind": "file", "steps": []}

    def answer(self, given: Given, asked: Asked) -> dict[str, Any]:
        queries = given[3]
        began = perf_counter()
        if not queries:
            return {"classes": self.classes, "p": [], "ms": 0.0}
        if self.shape is not None:
            x, ways = of_pictures(queries, self.shape), len(self.classes)
            return {"classes": self.classes, "p": rows(self.f, x, ways), "ms": since(began)}
        answers = self.f.answers([one.image.convert("RGB") for one in queries])
        shown = {"classes": self.classes, "p": answers.p.tolist(), "ms": since(began)}
        for name, find in (
            ("sets", lambda: self.f.sets(answers.p, asked.coverage)),
            ("none", lambda: (answers.known <= self.threshold(asked.false_accept)).tolist()),
        ):
            try:
                shown[name] = find()
            except ValueError as error:  # too few examples to say
                shown[f"why no {name}"] = str(error)
        return shown

    def threshold(self, rate: float) -> float:
        return self.f.alone() if len(self.classes) == 1 else self.f.threshold(rate)


class Rule:
    """A run that learned an optimizer, which trains a small network on whatever is drawn, beside Adam."""

    def __init__(self, folder: str, run: Run):
        self.run, self.name = run, Path(folder).name or str(folder)

    def about(self) -> dict[str, Any]:
        told = {"name": self.name, "adapts": False, "kind": "rule", "steps": []}
        return {**told, "recipe": self.run.info["recipe"], "trained": self.run.step}

    def answer(self, given: Given, asked: Asked) -> dict[str, Any]:
        """What the network says that the learned rule trained from scratch; the loss on S after each step of it, and of
        Adam at the best of its rates."""
        from ..optim import Learned

        pictures, y, names, queries = given
        x, q = of_pictures(pictures, (1, SIDE, SIDE)), of_pictures(queries, (1, SIDE, SIDE))
        labels, began = torch.tensor(y), perf_counter()
        learned, net = descended(lambda p: Learned(p, self.run), x, labels, len(names))
        ms = since(began)
        adams = {lr: descended(lambda p, lr=lr: torch.optim.Adam(p, lr), x, labels, len(names))[0] for lr in RATES}
        best = min(adams, key=lambda lr: adams[lr][-1])
        return {"classes": names, "p": rows(net, q, len(names)), "ms": ms,
                "descent": {"learned": learned, "adam": adams[best], "lr": best}}  # fmt: skip


def descended(
    optimizer: Callable[[Any], torch.optim.Optimizer], x: Tensor, y: Tensor, ways: int
) -> tuple[list[float], Callable[[Tensor], Tensor]]:
    """The mean cross-entropy on (x, y) before each of DESCENT steps and at their end; the network that they made."""
    with noise(0, "page", 1):
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(SIDE**2, UNITS), torch.nn.Sigmoid(), torch.nn.Linear(UNITS, ways)
        )
    descent, losses = optimizer(net.parameters()), []
    for _ in range(DESCENT):
        descent.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        descent.step()
        losses.append(loss.item())
    with torch.no_grad():
        losses.append(F.cross_entropy(net(x), y).item())
    return [round(min(loss, 99.0), 4) for loss in losses], net


def by_theta_alone(f: Any, theta: Any) -> bool:
    """Whether f's embedding is that of theta, whatever S is, and takes each x by itself."""
    own, (embed, params) = {id(t) for t in pytree.tree_leaves(theta)}, network(f) or (None, None)
    parts = pytree.tree_leaves(params)
    return isinstance(embed, Net) and "transductive" not in policies(f) and all(id(t) in own for t in parts)


def rows(f: Any, x: Tensor, ways: int) -> list[list[float]]:
    """p(y | x) of each x, rounded."""
    return rounded(probabilities(f, x, ways=ways)) if len(x) else []


def rounded(p: Tensor) -> list[list[float]]:
    """p as it is shown."""
    return [[round(v, 5) for v in row] for row in p.tolist()]


def prototypes(f: Any, dim: int) -> Tensor | None:
    """A predictor's prototypes [classes, dim], if it has such."""
    c = getattr(f, "c", None)
    return c.flatten(1) if isinstance(c, Tensor) and c.ndim > 1 and c[0].numel() == dim else None


def axes(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(mean [d], A [d, 2], scale): the two directions in which z [n, d] differ most, and how far they reach."""
    mean = z.mean(0)
    A = torch.linalg.svd(z - mean, full_matrices=False).Vh[:2].T
    A = A * torch.where(A.gather(0, A.abs().argmax(0, keepdim=True)) < 0, -1.0, 1.0)
    return mean, A, ((z - mean) @ A).abs().amax().clamp_min(1e-12)


def moved(f: Any) -> Tensor:
    """All floating tensors of f in one vector."""
    return torch.cat([t.detach().flatten() for t in pytree.tree_leaves(f) if t.is_floating_point()])


def main_plane(phi: Tensor) -> list[list[float]]:
    """phi [n, d], beginning at (0, 0), in the two directions in which it moves most, as far as 1 from the beginning."""
    d = (phi - phi[0]).double()
    U, s, _ = torch.linalg.svd(d @ d.T)
    at = (U * s.sqrt())[:, :2]
    at = at * torch.where(at[-1] < 0, -1.0, 1.0)
    return (at / at.abs().amax().clamp_min(1e-12)).round(decimals=3).tolist()


Shown = Trained | Fixed | Rule | Said


def load(what: str, data: Callable[[Run], Pool]) -> Shown:
    """A run's folder, or a predictor's file. Raises ValueError if it is neither, or was not made of pictures."""
    if not Path(what).is_dir():
        return Fixed(what)
    run = open_run(what)
    optimizes = isinstance(run.theta, dict) and set(run.theta) == {"m", "scale"}
    if says_again(run):
        return Said(what, run)
    return Rule(what, run) if optimizes else Trained(what, data, run)


def warm(one: Shown) -> None:
    """Ask it once, of blank pictures, since a first answer takes longer than others. What fails will be told there."""
    blank = Picture(Image.new("L", (28, 28), 255))
    with suppress(ValueError):
        one.answer(([blank, blank], [0, 1], ["a", "b"], [blank]), Asked(classes=[], queries=[]))
