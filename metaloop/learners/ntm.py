"""Neural Turing Machines (NTM)
Graves, Wayne & Danihelka, 2014, arXiv:1410.5401

A network with a memory reads a sequence, and then says what it was asked for, while it reads nothing:

    h(t)          = net(theta, x(t), h(t-1))                  (x(1), .) .. (x(n), .) = S                (1)
    p(i), h(n+i)  = net(theta, q(i), h(n+i-1)),   f(q(1), .., q(m)) = sigmoid p(1), .., sigmoid p(m)    (2)
    theta         = argmin  E_task  - sum_i y(i) log sigmoid p(i) + (1 - y(i)) log(1 - sigmoid p(i))    (3)

f = F(S) is the network as it stands after S: what was learned of S is what it wrote. Only the queries have bits y(i)
that are asked for; what they are, S says in its x (`metaloop.tasks.copy`, `metaloop.tasks.associative_recall`), and its
own y are not read. The queries are one sequence: the second is answered after the first. h holds a memory M, which one
head reads, and another erases and adds to, each with weights w over its slots that come from those it had before:

    content w_c ~ exp(beta K(k, M)),  interpolation w_g = g w_c + (1 - g) w,  shift w_s = w_g * s,  w ~ w_s^gamma    (4)

This is `metaloop.nn.Memory` with `metaloop.nn.Tape`.
"""

from collections.abc import Callable
from math import log

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from .meta_rnn import Recurrence, State


@predictor
class Answering:
    """net, stopped after S; it goes on with the queries, one after another."""

    theta: Params
    h: State
    net: Recurrence = static()

    def logits(self, x: Float[Tensor, "m ..."]) -> Float[Tensor, "m bits"]:
        return self.net(self.theta, x.flatten(1), self.h)[0]                              # (2)

    def __call__(self, x: Float[Tensor, "m ..."]) -> Float[Tensor, "m bits"]:
        return self.logits(x).sigmoid()


def ntm(net: Recurrence, init: Callable[[int], Params]) -> Learner[Params]:
    """A recurrent network that answers a sequence by another, of bits: theta is its weights; f answers probabilities.

    net: (theta, [T, size of x], state or None) -> ([T, bits], state), such as `functional(metaloop.nn.Memory(...))`
        gives.
    """

    def adapt(theta: Params, S: Data) -> Answering:
        return Answering(theta, net(theta, S.x.flatten(1))[1], net)                       # (1)

    def objective(adapt, theta: Params, task: Task):
        S, Q = task
        loss = F.binary_cross_entropy_with_logits(adapt(theta, S).logits(Q.x), Q.y)       # (3)
        return loss, {"bits": loss * Q.y.numel() / log(2)}

    return Learner(init, adapt, objective, differentiates=False)
