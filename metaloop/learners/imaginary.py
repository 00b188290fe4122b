"""Low-Shot Learning from Imaginary Data
Wang, Girshick, Hebert & Hariharan, CVPR 2018, arXiv:1801.05401

Before a metric learner sees the support set, a network G imagines more examples of each class, from those that are
there and from noise:

    S_G        = {(G(x, z_j), y):  (x, y) in S,  j = 1 .. m},    z_j = N(0, I)                            (1)
    f          = h(S + S_G)                                        h: any learner of classes              (2)
    theta      = argmin  E_task  the loss of h on Q, given S + S_G                                        (3)

Examples are features, of a network that is trained before and fixed, or learned along. G starts as G(x, z) = x
(`metaloop.nn.Hallucinator`): then f is exactly what h makes of S. In (3) noise is drawn anew; f takes fixed noise, the
same z_1 .. z_m for each example, which theta holds, so that it is a function of S.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Data, Learner, Params, Task, Theta, predictor, static
from ..nn import condition, fixed, population
from ..nn.imagination import beside

Part = tuple[Callable[[Params, Tensor], Tensor], Callable[[int], Params]]  # (net, init), as `functional` gives them


@predictor
class Embedded:
    """f(x) = h(embed(x))."""

    theta: Params
    h: Any
    embed: Callable[[Params, Tensor], Tensor] = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        return self.h(self.embed(self.theta, x))


def imaginary(
    metric: Learner, generator: Part, *, ways: int, noise: int, examples: int = 10, embed: Part | None = None,
    imagines: bool = True,
) -> Learner[dict[str, Theta]]:  # fmt: skip
    """A learner of classes on a support set with imaginary examples. theta: G's, h's, the noise, and the embedding's.

    metric: h, a learner of features [n, dim], such as protonet or matching. generator: G, a network of dim + `noise`
    numbers, side by side, to dim, and its init: `functional(nn.Hallucinator(dim, noise))`. examples: how many a class
    is given on average; each of S is imagined equally often, once at least. embed: what makes features of x, learned
    along unless its parameters are frozen; x are features unless given. imagines=False: h on S alone, of the same
    theta. Raises ValueError if noise or examples is below 1.
    """
    if noise < 1 or examples < 1:
        raise ValueError(f"imaginary: noise is {noise}, examples {examples}, expected at least 1 of each.")

    def init(seed: int) -> dict[str, Theta]:
        z = torch.randn(examples, noise, generator=torch.Generator().manual_seed(seed))
        theta = {"generator": generator[1](seed), "metric": metric.init(seed), "noise": fixed(z)}
        return theta if embed is None else theta | {"embed": embed[1](seed)}

    def features(theta, S: Data) -> tuple[Data, Callable[[Params, Tensor], Tensor], Params]:
        """Those of S, and how to find those of queries."""
        if embed is None:
            return S, lambda _, x: x, {}
        net, params = condition(embed[0], theta["embed"], S.x)
        return Data(embed[0](theta["embed"], S.x), S.y), net, params

    def imagined(theta, S: Data, *, anew: bool) -> Data:
        if not imagines:
            return S
        m = min(max(examples * ways // len(S.x), 1), examples)
        z = theta["noise"][:m].expand(len(S.x), -1, -1)
        z = torch.randn_like(z) if anew else z
        x = generator[0](theta["generator"], beside(S.x, z).flatten(0, 1))                                # (1)
        return Data(torch.cat([S.x, x]), torch.cat([S.y, S.y.repeat_interleave(m)]))

    def adapt(theta, S: Data):
        seen, net, params = features(theta, S)
        h = metric.adapt(theta["metric"], imagined(theta, seen, anew=False))                              # (2)
        return h if embed is None else Embedded(params, h, net)

    def task_of_features(theta, task: Task) -> Task:
        S, net, params = features(theta, task.support)
        return Task(imagined(theta, S, anew=True), Data(net(params, task.query.x), task.query.y))

    def objective(adapt, theta, task: Task):
        return metric.objective(metric.adapt, theta["metric"], task_of_features(theta, task))             # (3)

    def scheduled(step: int) -> Theta:
        assert metric.scheduled is not None
        return {"metric": metric.scheduled(step)}

    of_embed = None if embed is None else population(embed[0], "embed")

    def statistics(theta, task: Task) -> Theta:
        seen = of_embed(theta, task.support) if of_embed else {}
        if metric.statistics is None:
            return seen
        made = task_of_features(theta, task)
        what = made if metric.statistics_of_task else made.support
        return seen | {"metric": metric.statistics(theta["metric"], what)}

    return Learner(
        init, adapt, objective, differentiates=metric.differentiates, classes=metric.classes,
        statistics=statistics if of_embed or metric.statistics else None, statistics_of_task=True,
        scheduled=scheduled if metric.scheduled else None,
    )  # fmt: skip
