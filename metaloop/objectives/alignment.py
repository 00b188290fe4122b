"""Two domains made one: features that hide the domain, maps there and back, one language's words turned onto another's
Ganin et al., Domain-Adversarial Training of Neural Networks, JMLR 2016, arXiv:1505.07818; Zhu, Park, Isola & Efros,
Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks, ICCV 2017, arXiv:1703.10593; Conneau,
Lample, Ranzato, Denoyer & Jegou, Word Translation Without Parallel Data, ICLR 2018, arXiv:1710.04087

    rev_l(z)   = z, with the derivative -l                                                            (1)
    L          = loss of source tasks + mean BCE(psi(rev_l(phi(x))), domain of x),  one loss for two players (2)
    l(t)       = most (2 / (1 + e^(-10 t)) - 1),  t in [0, 1] the share of training that is over      (3)
    cycle      = mean |back(forth(a)) - a| + mean |forth(back(b)) - b|                                (4)
    W          = argmin over W'W = I of |X W - Y|^2 = U V',  X'Y = U S V'                             (5)
    CSLS(x, y) = 2 cos(x, y) - r(x) - r(y),  r: mean cosine with the k nearest of the other language  (6)

(4) is 0 for every map that can be undone, so also for one that takes each class to another: judge by labels. For the
start of (5) without any pair, `profiles`: a word is known by how similar all others are to it.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..core import Data, Learner, Params, Scalar, Task
from ..nn.unit import unit

Map = Callable[[Tensor], Tensor]


def reverse(z: Tensor, weight: float | Tensor) -> Tensor:
    """(1): z itself, whose derivative is -weight."""
    return z.detach() - weight * (z - z.detach())


def confused(
    learner: Learner,
    embed: Callable[[Any, Tensor], Tensor],
    critic: tuple[Callable[[Params, Tensor], Tensor], Callable[[int], Params]],
    *,
    steps: int,
    most: float = 1.0,
) -> Learner:
    """(2): the learner, whose features embed(theta, x) are also trained to hide from which of two domains x is.

    Tasks are those of `tasks.Beside`: the second half of the queries are examples of the other domain, whose labels
    are never looked at. critic: (net, init) of psi, features -> [n, 1], the logit of the other domain; it is in theta
    and learns by the same optimizer. steps: of the whole training, for (3); most: the weight at its end, 0 for a critic
    that only watches. `adapt` is the learner's own, of theta["learner"], and never sees the other domain.

    Raises ValueError unless there is a step.
    """
    if steps < 1:
        raise ValueError(f"confused: steps is {steps}, expected those of the whole training, at least 1.")
    say, init_critic = critic

    def weight(step: int) -> Tensor:
        return most * (2 / (1 + torch.exp(torch.tensor(-10.0 * step / steps))) - 1)                     # (3)

    def init(seed: int) -> dict[str, Any]:
        return {"learner": learner.init(seed), "critic": init_critic(seed), "weight": weight(0)}

    def objective(adapt, theta, task: Task):
        S, (x, y) = task
        n = len(x) // 2
        loss, info = learner.objective(learner.adapt, theta["learner"], Task(S, Data(x[:n], y[:n])))
        logit = say(theta["critic"], reverse(embed(theta["learner"], x), theta["weight"]))[:, 0]
        other = (torch.arange(len(x), device=x.device) >= n).to(logit)
        domain = F.binary_cross_entropy_with_logits(logit, other)
        return loss + domain, info | {"domain": domain}                                                 # (2)

    def scheduled(step: int):
        own = {} if learner.scheduled is None else {"learner": learner.scheduled(step)}
        return own | {"weight": weight(step)}

    own = learner.statistics
    return Learner(
        init, lambda theta, S: learner.adapt(theta["learner"], S), objective,
        differentiates=learner.differentiates, scheduled=scheduled, statistics_of_task=learner.statistics_of_task,
        statistics=None if own is None else lambda theta, seen: {"learner": own(theta["learner"], seen)},
        classes=learner.classes,
    )  # fmt: skip


def cycle(forth: Map, back: Map, a: Float[Tensor, "n ..."], b: Float[Tensor, "m ..."]) -> Scalar:
    """(4): forth takes examples of the first domain to the second, back those of the second to the first."""
    return (back(forth(a)) - a).abs().mean() + (forth(back(b)) - b).abs().mean()


def procrustes(X: Float[Tensor, "n d"], Y: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
    """(5): rows of X and Y are pairs; X W is where Y is. W turns, or turns and mirrors. Raises ValueError unless X and
    Y are of one shape."""
    if X.shape != Y.shape or X.ndim != 2:
        raise ValueError(f"procrustes: pairs are {tuple(X.shape)} and {tuple(Y.shape)}, expected one shape, [n, d].")
    U, _, Vt = torch.linalg.svd(X.mT @ Y)
    return U @ Vt


def csls(x: Float[Tensor, "n d"], y: Float[Tensor, "m d"], k: int = 10) -> Float[Tensor, "n m"]:
    """(6), the nearest among all the given: what is near to everything is no translation of everything. Raises
    ValueError for a k that is not 1 to the smaller number of words."""
    if not 1 <= k <= min(len(x), len(y)):
        raise ValueError(f"csls: k is {k}, expected 1 to {min(len(x), len(y))}.")
    cos = unit(x) @ unit(y).mT
    return 2 * cos - cos.topk(k, 1).values.mean(1)[:, None] - cos.topk(k, 0).values.mean(0)


def profiles(X: Float[Tensor, "n d"], Y: Float[Tensor, "n d"]) -> Int[Tensor, " n"]:
    """For each row of X the row of Y whose sorted similarities with its own kind are most like its: equal for a copy
    that is turned and whose rows are in another order. After Artetxe, Labaka & Agirre, ACL 2018, arXiv:1805.06297.

    Raises ValueError unless both have as many rows.
    """
    if len(X) != len(Y):
        raise ValueError(f"profiles: {len(X)} and {len(Y)} rows, expected as many of both.")

    def sorted_similarities(Z: Tensor) -> Tensor:
        U, s, _ = torch.linalg.svd(Z, full_matrices=False)
        return unit((U * s @ U.mT).sort(1).values)  # the root of Z Z', as theirs

    return (sorted_similarities(X) @ sorted_similarities(Y).mT).argmax(1)
