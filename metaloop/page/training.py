"""Meta-training that is watched: a small learner of glyphs, a few meta-steps at each request."""

from time import monotonic
from typing import Any

import torch

from ..engine.batch import meta_gradient
from ..engine.predictor import adapt
from ..engine.seeds import generator
from ..learners.protonet import protonet
from ..nn import conv4, functional
from ..tasks import glyphs
from ..torch_private import pytree
from .asked import Given
from .shown import of_pictures, rows

STEPS, EACH = 300, 5  # meta-steps in all, and of a request
SILENT = 10.0  # seconds without a request, after which another may begin
SHAPE, WIDTH, WAYS, QUERIES, LR = (1, 28, 28), 16, 10, 5, 3e-3


class Training:
    """A prototypical network that begins at random weights, and what it makes of a task on its way.

    It is no thread: it goes on when it is asked, and whoever stops asking has stopped it.
    """

    def __init__(self, number: int):
        self.number, self.step, self.fresh, self.asked = number, 0, True, monotonic()
        self.net, self.init = functional(conv4(SHAPE, width=WIDTH, norm_policy="support"))
        self.learner, self.pool = protonet(self.net, self.init, ways=WAYS), glyphs()
        self.theta, self.gradient = self.learner.init(number), meta_gradient(self.learner)
        self.descent = torch.optim.Adam(pytree.tree_leaves(self.theta), LR)

    def __call__(self, given: Given) -> dict[str, Any]:
        """What the learner says of the task now, after EACH more meta-steps, of at most STEPS; before the first request
        it has made none."""
        losses = []
        if not self.fresh:
            for _ in range(min(EACH, STEPS - self.step)):
                losses.append(self.meta_step())
        self.fresh, self.asked = False, monotonic()
        pictures, y, names, queries = given
        x, q, ways = of_pictures(pictures, SHAPE), of_pictures(queries, SHAPE), len(names)
        f = adapt(protonet(self.net, self.init, ways=ways), self.theta, x, torch.tensor(y), ways=ways)
        told = {"step": self.step, "of": STEPS, "classes": names, "p": rows(f, q, ways)}
        return {**told, "loss": round(sum(losses) / len(losses), 4) if losses else None}

    def meta_step(self) -> float:
        """theta <- Adam(theta, meta-gradient on a task of glyphs); the loss there before it."""
        g = generator(self.number, "training", self.step)
        task = self.pool.train.sample(tasks=1, ways=WAYS, shots=1, queries=QUERIES, generator=g)
        grads, loss, _ = self.gradient(self.theta, task)
        for leaf, d in zip(pytree.tree_leaves(self.theta), pytree.tree_leaves(grads), strict=True):
            leaf.grad = d
        self.descent.step()
        self.step += 1
        return loss.item()


class Turn:
    """One training at a time."""

    def __init__(self):
        self.now: Training | None = None
        self.begun = 0

    def begin(self) -> dict[str, int]:
        """A new training's number. Raises Taken while another goes on."""
        if self.now is not None and self.now.step < STEPS and monotonic() - self.now.asked < SILENT:
            raise Taken("another training goes on here. It ends soon, or is stopped in its window.")
        self.begun += 1
        self.now = Training(self.begun)
        return {"number": self.begun, "steps": STEPS}

    def of(self, number: int) -> Training:
        """Raises Taken if that training is over and another has the turn, or none."""
        if self.now is None or self.now.number != number:
            raise Taken("this training is over. Begin another.")
        return self.now

    def end(self, number: int) -> dict[str, int]:
        self.of(number)
        self.now = None
        return {"number": number}


class Taken(ValueError):
    """Not this training's turn."""
