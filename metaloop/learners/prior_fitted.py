"""TabPFN: A Transformer That Solves Small Tabular Classification Problems in a Second
Hollmann, Mueller, Eggensperger & Hutter, ICLR 2023, arXiv:2207.01848
after Transformers Can Do Bayesian Inference
Mueller, Hollmann, Pineda Arango, Grabocka & Hutter, ICLR 2022, arXiv:2112.10510

    S, Q     ~ p(data)                 a prior over whole tables, from which tasks are drawn        (1)
    q(. | x) = softmax net(x, S)       one pass of a Transformer, in which Q sees S alone           (2)
    theta    = argmin  E_task  -log q(y | x) over Q                                                 (3)

(3) is the mean of KL(p(. | x, S) || q(. | x)) but for a constant, so its minimum is the posterior predictive of the
prior. At meta-test net may be asked several times, and its answers be averaged:

    f(x)     = log mean over t < members of q_t(x), with columns and classes turned on by t         (4)
"""

from collections.abc import Callable
from math import log
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Data, Learner, Params, predictor, static
from ..nn import cross_entropy, membership
from ..objectives.query import query_loss


@predictor
class InOnePass:
    """What net remembers of S, once for each member."""

    theta: Params
    memory: Any
    net: Callable[..., Any] = static()
    ways: int = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        answers = []
        for t, memory in enumerate(self.memory):
            scores = self.net(self.theta, turned(x, t), None, memory)[:, : self.ways]               # (2)
            answers.append(scores.log_softmax(-1).roll(-t, 1))
        return torch.stack(answers).logsumexp(0) - log(len(answers)) if len(answers) > 1 else answers[0]  # (4)


def turned(x: Tensor, t: int) -> Tensor:
    """The columns of x, each moved on by t."""
    return x.flatten(1).roll(t, 1)


def prior_fitted(
    net: Callable[..., Any], init: Callable[[int], Params], *, ways: int, members: int = 1
) -> Learner[Params]:
    """A network that has learned to learn from tables of a prior: theta is its weights, f what it remembers of S.

    net: (theta, x [n, columns], member [n, ways] or None, memory) -> the memory of S, or scores [n, classes], such as
        `functional(metaloop.nn.InContext(...))` gives.
    members: how many answers are averaged at meta-test; 1 in meta-training.
    """
    if members < 1:
        raise ValueError(f"prior_fitted: members={members}, expected a whole number, at least 1.")

    def adapt(theta: Params, S: Data) -> InOnePass:
        member = membership(S.y, ways)
        memory = tuple(net(theta, turned(S.x, t), member.roll(t, 1)) for t in range(members))
        return InOnePass(theta, memory, net, ways)

    return Learner(init, adapt, query_loss(cross_entropy), differentiates=False)                    # (3)
