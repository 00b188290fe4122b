"""How sure a run's predictors are, told from tasks that it never saw: sets of classes, and none of these."""

from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..engine.predictor import probabilities
from ..engine.seeds import generator
from ..own.choose import enough, quantile

if TYPE_CHECKING:
    from .shown import Trained

TASKS, SECONDS = 100, 0.1  # that are dealt; of one look, after which others are answered


class Sure:
    """Of tasks of `ways` classes of `shots` examples: the probability of the right class for a query of each, and the
    largest one for a query of a further class.

    The tasks are drawn as any other of the data, so a set of all classes with p_k >= 1 - q, q the quantile of 1 - p of
    the right class, holds the right class of one more such task with the probability that is asked for (split conformal
    prediction, Vovk et al. 2005); and likewise of strangers. Of drawings that are unlike the data it says less.
    """

    def __init__(self, run: "Trained", ways: int, shots: int):
        self.run, self.ways, self.shots, self.why = run, ways, shots, ""
        self.true: list[float] = []
        self.strangers: list[float] = []

    def look(self) -> dict[str, Any]:
        """More tasks, as many as SECONDS allow, of TASKS in all."""
        end = perf_counter() + SECONDS
        while not self.why and len(self.true) < TASKS:
            try:
                self.one(len(self.true))
            except (ValueError, OSError) as error:  # no data at hand, or too few classes
                self.why = str(error)
            if perf_counter() > end:
                break
        return self.about()

    def one(self, number: int) -> None:
        """A task, its query and its stranger."""
        g = generator(number, "page", 3)
        task = self.run.pool.sample(tasks=1, ways=self.ways + 1, shots=self.shots, queries=1, generator=g)
        (x, y), (q, label) = ((d.x[0], d.y[0]) for d in task)
        if {*y.tolist()} != {*range(self.ways + 1)}:
            raise ValueError("its classes have one number in all tasks, so none can be dealt.")
        asked = int(torch.randint(self.ways, (), generator=g))
        f = self.run.adapted(x[y < self.ways], y[y < self.ways], self.ways)
        p, other = (probabilities(f, q[label == k], ways=self.ways)[0] for k in (asked, self.ways))
        self.true.append(p[asked].item())
        self.strangers.append(other.max().item())

    def about(self) -> dict[str, Any]:
        return {"ways": self.ways, "shots": self.shots, "done": TASKS if self.why else len(self.true), "of": TASKS}

    def shown(self, p: Tensor, coverage: float, false_accept: float) -> dict[str, Any]:
        """`sets`, `none` of each row of p, or why there are none; how far the look is. p: unrounded, as what was seen
        is."""
        told: dict[str, Any] = {"sure": self.about()}
        if len(self.true) < TASKS:
            return told | ({"why no sets": self.why} if self.why else {})
        order = p.double().sort(dim=1, descending=True)
        for name, values, share, find in (
            ("sets", [1 - v for v in self.true], coverage, lambda found: [
                ks[:n] for ks, n in zip(order.indices.tolist(),
                                        (order.values >= 1 - found - 1e-9).sum(1).clamp_min(1).tolist(), strict=True)]),
            ("none", self.strangers, 1 - false_accept, lambda found: (order.values[:, 0] <= found).tolist()),
        ):  # fmt: skip
            if (found := quantile(values, share)) is not None:
                told[name] = find(found)
            else:
                told[f"why no {name}"] = f"{share:g} needs {enough(share)} tasks, and {TASKS} were dealt."
        return told
