"""Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks
Finn, Abbeel & Levine, ICML 2017, arXiv:1703.03400

Learn an initialisation theta from which a few gradient steps solve a new task:

    phi_0     = theta
    phi_{k+1} = phi_k - alpha * grad_phi L(phi_k; S)        k = 0 .. K-1        (1)
    f(x)      = net(phi_K, x)                                                   (2)
    theta     = argmin  E_task  L(phi_K; Q)                                     (3)

and what has been made of it since, each an option:
    first-order MAML (same paper)      the gradient in (1) is held constant in (3)
    ANIL   (Raghu et al. 2020, arXiv:1909.09157)      (1) moves the head only
    BOIL   (Oh et al. 2021, arXiv:2008.08882)         (1) moves everything but the head
    Meta-SGD (Li et al. 2017, arXiv:1707.09835)       alpha learned, one per parameter       (4)
    MAML++ (Antoniou et al. 2019, arXiv:1810.09502)   alpha learned, per tensor and step     (5)
                                                      L = sum_k w_k L(phi_k; Q) in (3)       (6)
    iMAML  (Rajeswaran et al. 2019, arXiv:1909.04630) L(phi; S) + lambda/2 |phi - theta|^2 in (1)    (7)
                                                      and meta_gradient(..., method="implicit")

Departs: L is the mean cross-entropy; the authors' sums over classes, so their 0.4 for 5 ways and 0.1 for 20 are 2 here.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from ..core import Data, Learner, Params, Task, predictor, static
from ..nn import Descent, condition, cross_entropy, descend, learned, population
from ..objectives.query import query_loss, scalars


@predictor
class FineTuned:
    """net(phi, .): a network whose parameters have been moved to one task."""

    phi: Params
    net: Callable[[Params, Tensor], Tensor] = static()

    def __call__(self, x: Float[Tensor, "n ..."]) -> Float[Tensor, "n ..."]:
        return self.net(self.phi, x)


def maml(
    net: Callable[[Params, Tensor], Tensor],
    init: Callable[[int], Params],
    *,
    inner_lr: float,
    inner_steps: int = 1,
    first_order: bool = False,
    adapts: str | Callable[[str], bool] = "",
    learn_lr: str | None = None,
    step_weights: Sequence[float] | None = None,
    optimizer: Descent | None = None,
    proximal: float = 0.0,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
) -> Learner:
    """MAML: theta is net's initialisation, f is net after inner_steps steps of descent on the support loss.

    adapts: which parameters (1) moves: a prefix of their names ("head" is ANIL, "body" BOIL) or a test of the name.
    learn_lr: None, "parameter" (4), or "layer-step" (5), whose last rate serves any further steps at meta-test. Then
        theta = {"net": ..., "inner_lr": ...}, with every rate starting at inner_lr.
    step_weights: w_1 .. w_K of (6); their sum should be 1. None scores phi_K alone.
    optimizer: the inner method of (1), `metaloop.nn.sgd()` unless given.
    proximal: lambda of (7).
    Raises ValueError if no parameter is adapted, or on an unknown learn_lr, or on weights not one per step.
    """
    if learn_lr not in (None, "parameter", "layer-step"):
        raise ValueError(f'maml: learn_lr is {learn_lr!r}, expected None, "parameter" or "layer-step".')
    if step_weights is not None and len(step_weights) != inner_steps:
        raise ValueError(f"maml: {len(step_weights)} step_weights for inner_steps={inner_steps}. Give one each.")

    def moved(phi: Params) -> Params:
        moves = adapts if callable(adapts) else lambda name: name.startswith(adapts)
        return {n: p for n, p in learned(phi, net).items() if moves(n)}

    def start(seed: int):
        theta = init(seed)
        fast, names = moved(theta), ", ".join(learned(theta, net))
        if not fast:
            raise ValueError(f"maml: adapts={adapts!r} names no parameter. There are: {names}.")
        if learn_lr is None:
            return theta
        size = {"parameter": lambda p: p.shape, "layer-step": lambda p: (inner_steps,)}[learn_lr]  # (4), (5)
        return {"net": theta, "inner_lr": {n: p.new_full(size(p), inner_lr) for n, p in fast.items()}}

    def L(fast: Params, rest: Params, S: Data) -> Tensor:
        return loss(net({**rest, **fast}, S.x), S.y)

    def path(theta, S: Data, every: bool = False) -> list[Params]:
        """phi_K, or phi_1 .. phi_K."""
        phi, alpha = (theta["net"], theta["inner_lr"]) if learn_lr else (theta, inner_lr)
        if learn_lr == "layer-step":
            rates = theta["inner_lr"].items()
            alpha = [{n: a[min(k, len(a) - 1)] for n, a in rates} for k in range(inner_steps)]
        fast = moved(phi)
        rest = {n: p for n, p in phi.items() if n not in fast}
        steps = descend(L, fast, (rest, S), lr=alpha, steps=inner_steps, optimizer=optimizer,
                        first_order=first_order, proximal=proximal, every=every)  # fmt: skip  # (1), (7)
        return [{**phi, **fast} for fast in steps or [fast]]

    def predictor_of(phi: Params, S: Data) -> FineTuned:
        query_net, phi = condition(net, phi, S.x)
        return FineTuned(phi, query_net)                                                # (2)

    def adapt(theta, S: Data) -> FineTuned:
        return predictor_of(path(theta, S)[-1], S)

    def multi_step(adapt, theta, task: Task):
        S, Q = task
        each = [predictor_of(phi, S)(Q.x) for phi in path(theta, S, every=True)]
        losses = [w * loss(predicted, Q.y) for w, predicted in zip(step_weights or (), each, strict=True)]
        return torch.stack(losses).sum(), scalars(each[-1], Q.y)                        # (6)

    objective = multi_step if step_weights else query_loss(loss)                        # (3)
    return Learner(start, adapt, objective, statistics=population(net, "net" if learn_lr else None))
