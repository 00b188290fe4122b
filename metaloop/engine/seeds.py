"""Random streams addressed by name: the numbers of step t need no state from step t - 1.

That is what makes a resumed run equal an unbroken one, and every learner see the same test tasks.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def generator(seed: int, stream: str, index: int) -> torch.Generator:
    """A CPU generator for one place of one stream of one seed."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


@contextmanager
def noise(seed: int, stream: str, index: int) -> Iterator[None]:
    """Torch's own random numbers (dropout, say) come from that place; the CPU's then go on where they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator(seed, stream, index).initial_seed())
        yield
