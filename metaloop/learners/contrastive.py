"""Contrastive pretraining: an embedding that knows its pair among all pairs of a batch
van den Oord, Li & Vinyals, Representation Learning with Contrastive Predictive Coding, 2018, arXiv:1807.03748; with the
critic of Chen, Kornblith, Norouzi & Hinton, A Simple Framework for Contrastive Learning, ICML 2020, arXiv:2002.05709

    z(x)     = embed(x) / |embed(x)|                                                      (1)
    f[i, j]  = z(s_j) . z(q_i) / T              (s_i, q_i): pairs, one of S and one of Q  (2)
    theta    = argmax  I(f) + I(f')             I: InfoNCE, unless another is asked for   (3)
    f(x)_k   = cos(z(x), mean of z(s) over the (s, y) in S with y = k) / T                (4)

What a pair shares is what the embedding is told to keep: two pictures of one class, which asks for labels, or two views
of one picture, which asks for none (`tasks.Instances`, changed by `tasks.Varied`).

Were pairs drawn independently, (3) would be twice a bound of I(S; Q). Tasks deal distinct classes, so that the others
tell something too, and it may be above that (docs/information.md); little, where there are many classes.

One way round, (3) with InfoNCE is the episodic loss of prototypical networks with cosines, 1-shot, one query a class.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ..core import Data, Learner, Params, Task
from ..nn import class_mean, condition, population, unit
from ..objectives.information import infonce, interpolated
from ..objectives.query import scalars
from .protonet import NearestPrototype


def contrastive(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    ways: int,
    temperature: float = 0.1,
    alpha: float | None = None,
) -> Learner[Params]:
    """Contrastive pretraining: theta is an embedding; nearest prototypes by cosine decide.

    Meta-train it on tasks with as many queries of each class as support examples, one of each as a rule, which are made
    pairs class by class. alpha: the bound is `objectives.interpolated` at it, with q = 1, in place of InfoNCE. Raises
    ValueError unless the temperature T is above 0 and alpha, if any, from 0 to 1; the objective raises it where S and Q
    are not of one size: that their classes agree is up to the pool.
    """
    if not temperature > 0:
        raise ValueError(f"contrastive: temperature is {temperature}, expected above 0.")
    if alpha is not None and not 0 <= alpha <= 1:
        raise ValueError(f"contrastive: alpha is {alpha}, expected from 0 to 1.")
    bound = infonce if alpha is None else lambda f: interpolated(f, alpha)

    def adapt(theta: Params, S: Data) -> NearestPrototype:
        c, present = class_mean(unit(embed(theta, S.x)), S.y, ways)
        query_embed, theta = condition(embed, theta, S.x)
        return NearestPrototype(theta, c, present, query_embed, 1 / temperature)          # (4)

    def objective(adapt, theta: Params, task: Task):
        S, Q = task
        if len(S.x) != len(Q.x):
            raise ValueError(f"contrastive: {len(S.x)} support examples, {len(Q.x)} queries; expected as many of each.")
        z_S, z_Q = (unit(embed(theta, x))[y.argsort(stable=True)] for x, y in (S, Q))     # (1)
        f = z_Q @ z_S.mT / temperature                                                    # (2)
        nats = (bound(f) + bound(f.mT)) / 2                                               # (3)
        return -nats, {"nats": nats} | scalars(f, torch.arange(len(f), device=f.device))

    return Learner(init, adapt, objective, differentiates=False, statistics=population(embed))
