"""The baseline: ordinary training on all meta-training classes, then a new head per task
as in Chen et al., A Closer Look at Few-shot Classification, ICLR 2019, arXiv:1904.04232

    theta = (embed, W, b) = argmin  E_(x, y) CE(W embed(x) + b, y)      y: one of all training classes  (1)

and on a task with support set S, the body frozen, one of

    f(x)_k = -|embed(x) - c_k|^2         c_k: class means, as prototypical networks                    (2)
    f(x)   = V embed(x) + v              (V, v): K steps of descent on CE over S, from zero             (3)

Meta-train it on `pool.flat()`, whose labels run over all classes; W and b are dropped at meta-test.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn import adam, class_mean, condition, cross_entropy, population
from ..objectives.query import scalars
from .protonet import NearestPrototype


@predictor
class LinearHead:
    """V embed(x) + v on a frozen embedding."""

    theta: Params
    V: Float[Tensor, "ways dim"]
    v: Float[Tensor, " ways"]
    embed: Callable[[Params, Tensor], Tensor] = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ways"]:
        return self.embed(self.theta, x) @ self.V.mT + self.v


def pretrain(
    embed: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    classes: int,
    dim: int,
    ways: int,
    head: str = "prototypes",
    inner_lr: float = 0.01,
    inner_steps: int = 100,
) -> Learner:
    """Pretrained features: theta = {"embed", "W", "b"} for `classes` training classes and features of size dim.

    head: what is made for a task: "prototypes" (2) or "linear" (3), by inner_steps steps of Adam at inner_lr.
    """
    if head not in ("prototypes", "linear"):
        raise ValueError(f"pretrain: head is {head!r}, expected 'prototypes' or 'linear'.")
    method = adam()

    def start(seed: int):
        generator = torch.Generator().manual_seed(seed)
        W = torch.randn(classes, dim, generator=generator) / dim**0.5
        return {"embed": init(seed), "W": W, "b": torch.zeros(classes)}

    def adapt(theta, S: Data) -> NearestPrototype | LinearHead:
        z = embed(theta["embed"], S.x)
        query_embed, params = condition(embed, theta["embed"], S.x)
        if head == "prototypes":
            return NearestPrototype(params, *class_mean(z, S.y, ways), query_embed, None)  # (2)
        phi = {"V": z.new_zeros(ways, dim), "v": z.new_zeros(ways)}
        state = method.init(phi)
        for _ in range(inner_steps):
            g = grad(lambda phi: cross_entropy(z @ phi["V"].mT + phi["v"], S.y))(phi)
            phi, state = method.update(inner_lr, g, phi, state)
        return LinearHead(params, phi["V"], phi["v"], query_embed)                         # (3)

    def objective(adapt, theta, task: Task):
        x, y = task.query
        logits = embed(theta["embed"], x) @ theta["W"].mT + theta["b"]
        return cross_entropy(logits, y), scalars(logits, y)                                # (1)

    return Learner(
        start, adapt, objective, differentiates=head == "linear", statistics=population(embed, "embed"), classes=classes
    )
