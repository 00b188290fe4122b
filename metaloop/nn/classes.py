"""Examples gathered by their classes: each class k of y has the rows of z where y is k."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, arange

from ..targets import target_of
from ..torch_private import values

Labels = Int[Tensor, " n"] | Float[Tensor, "n ways"]  # each example's class, or its probabilities


def membership(y: Int[Tensor, " n"], ways: int) -> Bool[Tensor, "n ways"]:
    """Whether example i is of class k. (torch's one_hot cannot be batched under a gradient.) Raises as `labels`."""
    return labels(y, ways)[:, None] == arange(ways, device=y.device)


def labels(y: Labels, ways: int) -> Labels:
    """y itself. Raises ValueError unless it is of 0 .. ways-1; numbers, which are no labels, pass.

    It looks on a CPU only, and not into what torch.compile traces; `evaluate` and the first step of `fit` always do.

    >>> from torch import tensor
    >>> labels(tensor([0, 2]), 3)
    tensor([0, 2])
    """
    if not target_of(y).numbers and (seen := values(y)):
        least, most = min(seen), max(seen)
        if not 0 <= least <= most < ways:
            raise ValueError(
                f"labels: y is from {least} to {most}, expected 0..{ways - 1}. Relabel the classes of each task, "
                "from 0, or make the learner for more of them."
            )
    return y


def cross_entropy(scores: Float[Tensor, "n ways"], y: Labels) -> Float[Tensor, ""]:
    """The mean over examples of -log softmax(scores)_y, or of its mean under the probabilities y. Raises as `labels`;
    torch's own leaves out labels of -100."""
    return F.cross_entropy(scores, labels(y, scores.shape[min(1, scores.dim() - 1)]))


def class_sum(z: Float[Tensor, "n ..."], y: Int[Tensor, " n"], ways: int) -> Float[Tensor, "ways ..."]:
    """sum over the i with y_i = k of z_i; zero for a class without examples.

    >>> from torch import tensor
    >>> class_sum(tensor([[1.0], [2.0], [4.0]]), tensor([0, 2, 2]), 3).flatten()
    tensor([1., 0., 6.])
    """
    return _sum(z, membership(y, ways).to(z))


def class_mean(
    z: Float[Tensor, "n ..."], y: Int[Tensor, " n"], ways: int
) -> tuple[Float[Tensor, "ways ..."], Bool[Tensor, " ways"]]:
    """The mean of z over each class, zero for a class without examples; and which classes have some.

    >>> from torch import tensor
    >>> mean, present = class_mean(tensor([[1.0], [2.0], [4.0]]), tensor([0, 2, 2]), 3)
    >>> mean.flatten(), present
    (tensor([1., 0., 3.]), tensor([ True, False,  True]))
    """
    member = membership(y, ways).to(z)
    count = member.sum(0)
    return _sum(z, member) / count.clamp_min(1).view(-1, *[1] * (z.ndim - 1)), count > 0


def of_sets(y: Tensor, ways: int, like: Tensor) -> Float[Tensor, "n ways"]:
    """Which set each example is of, in numbers like `like`'s. Labels of a single set are not looked at."""
    return membership(y, ways).to(like) if ways > 1 else torch.ones_like(like[:, :1])


def thinned(member: Float[Tensor, "n sets"]) -> Float[Tensor, "n sets"]:
    """Each set without a random part of its examples: of m, 1 .. m are left, each number as likely. (Edwards & Storkey
    2017 call it sample dropout.)"""
    lot, size = torch.rand_like(member[:, 0]), member.sum(0)
    rank = ((member @ member.mT) * (lot < lot[:, None])).sum(1)
    return member * (rank[:, None] < 1 + (torch.rand_like(size) * size).floor())


def _sum(z: Tensor, member: Tensor) -> Tensor:
    return (member.mT @ z.flatten(1)).view(-1, *z.shape[1:])
