"""Random streams addressed by name: the numbers of step t need no state from step t - 1.

That is what makes a resumed run equal an unbroken one, and every learner see the same test tasks.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def place(seed: int, stream: str, index: int) -> int:
    """One place of one stream of one seed, as a seed for a generator."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(seed: int, stream: str, index: int) -> torch.Generator:
    """A CPU generator for one place."""
    return torch.Generator().manual_seed(place(seed, stream, index))


def states() -> list[Tensor]:
    """Where torch's own random numbers are: the CPU's, and those of GPUs that are in use."""
    gpus = torch.cuda.default_generators if torch.cuda.is_initialized() else ()
    return [torch.get_rng_state(), *(generator.get_state() for generator in gpus)]


@contextmanager
def noise(seed: int, stream: str, index: int) -> Iterator[None]:
    """Torch's own random numbers (dropout, say) come from that place; the CPU's then go on where they were."""
    with torch.random.fork_rng(devices=[]):
        number = place(seed, stream, index)
        torch.default_generator.manual_seed(number)  # torch.manual_seed takes a hundred times as long
        for generator in torch.cuda.default_generators if torch.cuda.is_initialized() else ():
            generator.manual_seed(number)
        if torch.backends.mps.is_available():
            torch.mps.manual_seed(number)
        yield
