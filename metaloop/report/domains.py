"""How far apart two domains are to a classifier

    A-distance = 2 (1 - 2 err),  err of a fresh classifier of domains on examples that it has not seen

Ben-David, Blitzer, Crammer & Pereira, Analysis of Representations for Domain Adaptation, NIPS 2006, as Ganin et al.
2016, arXiv:1505.07818, measure it.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def a_distance(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> float:
    """Of a logistic regression fitted on every other example: 0 where domains cannot be told apart, 2 where they
    always can; by chance it may be below 0. Raises ValueError for fewer than 4 examples of either."""
    from sklearn.linear_model import LogisticRegression

    if min(len(a), len(b)) < 4:
        raise ValueError(f"a_distance: {len(a)} and {len(b)} examples, expected at least 4 of each.")
    n = min(len(a), len(b))
    z = torch.cat([a[:n], b[:n]]).detach().double()
    z = (z - z.mean(0)) / z.std(0).clamp_min(1e-6)
    y, first = torch.arange(2).repeat_interleave(n), torch.arange(2 * n) % n % 2 == 0
    told = LogisticRegression(max_iter=1000).fit(z[first].numpy(), y[first].numpy())
    return 2 * (2 * told.score(z[~first].numpy(), y[~first].numpy()) - 1)
