"""Chunks of tasks side by side: one thread for each core, each computing with that core alone.

Small convolutions do not keep two cores busy from within; two chunks at once do. Only compiled work is spread: it
holds no Python state of the learner, while `functional_call` puts parameters into a module that threads would share.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch


class Spread:
    """Call work(theta, part) for each part, on as many threads as torch may use; results in the order of the parts.

    The first call tries the first part alone: that compiles it, and shows whether the work draws random numbers. Work
    that does stays in order, one part after the other, or a seed would not give the same numbers again.
    """

    def __init__(self, work: Callable[[Any, Any], Any]):
        self.work, self.draws = work, None

    def __call__(self, theta: Any, parts: Sequence[Any]) -> Iterator[Any]:
        threads = torch.get_num_threads()
        if threads == 1 or len(parts) == 1:
            yield from (self.work(theta, part) for part in parts)
            return
        pool = _pool(threads)
        alone = lambda part: pool.submit(self.work, theta, part).result()
        if self.draws is None:
            before = torch.get_rng_state()
            yield alone(parts[0])
            self.draws = not torch.equal(before, torch.get_rng_state())
            parts = parts[1:]
        yield from (map(alone, parts) if self.draws else pool.map(lambda part: self.work(theta, part), parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "metaloop", initializer=lambda: torch.set_num_threads(1))
