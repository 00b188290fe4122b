"""Learning to Learn Using Gradient Descent
Hochreiter, Younger & Conwell, ICANN 2001, doi:10.1007/3-540-44668-0_13

A recurrent network reads a data set, each input with the target of the example before it:

    p(t), h(t) = net(theta, [x(t), y(t-1)], h(t-1))      t = 1 .. n,  y(0) = h(0) = 0        (1)
    f(x)       = p  of  net(theta, [x, y(n)], h(n))                                          (2)
    theta      = argmin  E_task  sum_t |p(t) - y(t)|^2                                       (3)

theta is frozen on a new task: what learns is the state h. The learning algorithm is whatever net does to h. p(t) is
made before y(t) is seen, so (3) scores what has been learned from t - 1 examples, for every t. The queries are
candidates for example n + 1: each continues from h(n) alone.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from ..targets import rows_of_numbers
from ..torch_private import pytree

State = Any  # of a network: a pytree of all that it carries from one input to the next
Recurrence = Callable[..., tuple[Tensor, State]]  # net(theta, [T, ..., input], state) -> ([T, ..., output], state)


@predictor
class Continued:
    """net, stopped after the support set; each query is its next input."""

    theta: Params
    h: State
    y: Float[Tensor, " out"]  # y(n)
    net: Recurrence = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n out"]:
        n = len(x)
        h = pytree.tree_map(lambda t: t.expand(n, *t.shape), self.h)
        inputs = torch.cat([x.flatten(1), self.y.expand(n, -1)], -1)
        return self.net(self.theta, inputs[None], h)[0][0]                                # (2)


def read(net: Recurrence, theta: Params, S: Data) -> tuple[Float[Tensor, "n out"], State]:
    """p(1) .. p(n), and h(n)."""
    before = torch.cat([torch.zeros_like(S.y[:1]), S.y[:-1]])
    return net(theta, torch.cat([S.x.flatten(1), before], -1))                            # (1)


def meta_rnn(
    net: Recurrence,
    init: Callable[[int], Params],
    *,
    loss: Callable[[Tensor, Tensor], Tensor] = F.mse_loss,
) -> Learner[Params]:
    """A recurrent network that learns by its state: theta is its weights, f the network after reading the support set.

    net: (theta, [T, ..., size of x + size of y], state or None) -> ([T, ..., size of y], state), such as
        `functional(metaloop.nn.Recurrent(...))` gives. loss: (predicted [n, out], y [n, out]) -> their mean loss.
    Raises ValueError unless the targets are numbers of shape [n, out].
    """

    def checked(S: Data) -> Data:
        rows_of_numbers("meta_rnn: support.y", S.y)
        return S

    def adapt(theta: Params, S: Data) -> Continued:
        return Continued(theta, read(net, theta, checked(S))[1], S.y[-1], net)

    def objective(adapt, theta: Params, task: Task):
        S, Q = task
        p, h = read(net, theta, checked(S))
        last = loss(Continued(theta, h, S.y[-1], net)(Q.x), Q.y)  # example n + 1
        return (loss(p, S.y) * len(S.y) + last) / (len(S.y) + 1), {"last": last}          # (3)

    return Learner(init, adapt, objective, differentiates=False)
