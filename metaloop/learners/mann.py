"""Meta-Learning with Memory-Augmented Neural Networks (MANN)
Santoro, Bartunov, Botvinick, Wierstra & Lillicrap, ICML 2016, http://proceedings.mlr.press/v48/santoro16.html
One-shot Learning with Memory-Augmented Neural Networks, arXiv:1605.06065

Examples are presented one after another, each with the label of the one before:

    p(t), h(t) = net(theta, [x(t), onehot y(t-1)], h(t-1))      t = 1 .. n,  y(0) = 0                 (1)
    f(x)       = p  of  net(theta, [x, onehot y(n)], h(n))                                            (2)
    theta      = argmin  E_task  sum_t -log softmax p(t)_y(t)                                         (3)

As in Hochreiter et al. 2001 (`meta_rnn`), of classes, whose labels are dealt anew for each task: what x is called can
only be known from the sequence. net's state h holds a memory: examples are written to the slots used least, and found
by what they look like (`metaloop.nn.Memory` with `metaloop.nn.LeastUsed`). An LSTM in its place is the baseline.

A class is unknown at its first presentation. Who knows which labels were used already guesses among the others, and is
right in (1/m + ... + 1/2 + 1) / m of m classes, 45.7 % of five: more would be a leak.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor
from ..nn import membership
from ..objectives import accuracy
from .meta_rnn import Continued, Recurrence, read

SHOWN = (1, 2, 5, 10)  # presentations whose accuracy is logged


@predictor
class Presented:
    """What was said of each example of S before its label was seen. It answers for those examples, in their order."""

    p: Float[Tensor, "n ways"]

    def __call__(self, x: Float[Tensor, "m ..."]) -> Float[Tensor, "m ways"]:
        if len(x) > len(self.p):
            raise ValueError(
                f"mann: along=True answers for the {len(self.p)} examples of S, it is asked about {len(x)}. "
                "Take tasks of metaloop.tasks.presentations(pool)."
            )
        return self.p[: len(x)]


def mann(
    net: Recurrence, init: Callable[[int], Params], *, ways: int, along: bool = False
) -> Learner[Params]:
    """MANN, or any recurrent network that learns classes by its state: theta is its weights.

    net: (theta, [T, ..., size of x + ways], state or None) -> ([T, ..., ways], state), such as
        `functional(metaloop.nn.Memory(...))` gives.
    along: f answers what was said of the examples of S on the way, before their labels were seen, for a curve over
        presentations: its queries are S itself (`metaloop.tasks.presentations`).
    """

    def coded(S: Data) -> Data:
        return Data(S.x, membership(S.y, ways).to(S.x))

    def adapt(theta: Params, support: Data):
        S = coded(support)
        p, h = read(net, theta, S)                                                                    # (1)
        return Presented(p) if along else Continued(theta, h, S.y[-1], net)                           # (2)

    def objective(adapt, theta: Params, task: Task):
        S, Q = coded(task.support), coded(task.query)
        p, h = read(net, theta, S)
        last = Continued(theta, h, S.y[-1], net)(Q.x)  # example n + 1
        loss = F.cross_entropy(p, S.y, reduction="sum") + F.cross_entropy(last, Q.y)
        right, times = p.argmax(-1) == task.support.y, presentation(task.support.y, ways)
        curve = {f"presentation {k}": at(right, times == k) for k in SHOWN if k * ways <= len(right)}
        return loss / (len(right) + 1), {"accuracy": accuracy(last.detach(), task.query.y), **curve}  # (3)

    return Learner(init, adapt, objective, differentiates=False)


def presentation(y: Int[Tensor, "... n"], ways: int) -> Int[Tensor, "... n"]:
    """The how manieth example of its class each one is, counted from 1."""
    member = y[..., None] == torch.arange(ways, device=y.device)
    return (member.cumsum(-2) * member).sum(-1)


def at(right: Tensor, chosen: Tensor) -> Tensor:
    """The share of the chosen that are right; 0 of none."""
    return (right & chosen).sum(-1) / chosen.sum(-1).clamp_min(1)
