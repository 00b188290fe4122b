"""Random streams addressed by name: the numbers of step t need no state from step t - 1.

That is what makes a resumed run equal an unbroken one, and every learner see the same test tasks.
"""

import hashlib

import torch


def generator(seed: int, stream: str, index: int) -> torch.Generator:
    """A CPU generator for one place of one stream of one seed."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)
