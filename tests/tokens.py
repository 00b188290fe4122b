"""A space of two tokens, small enough to enumerate, with a reward for each choice; and a policy on it."""

from itertools import product

import torch

from metaloop.outer import Policy

SIZES = [2, 3]
ALL = torch.tensor([*product(range(2), range(3))])
REWARDS = torch.tensor([0.1, 0.9, 0.3, 0.2, 0.5, 0.7], dtype=torch.double)


def policy():
    """One whose choices are far from alike."""
    found = Policy(SIZES, hidden=4, seed=1)
    with torch.no_grad():
        for p in found.parameters():
            p.mul_(20)
    return found
