"""Compiled work, and chunks of tasks side by side: one thread for each core, each computing with that core alone.

Small convolutions do not keep two cores busy from within; two chunks at once do. Only compiled work is spread: it
holds no Python state of the learner, while `functional_call` puts parameters into a module that threads would share.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import torch

Work = Callable[[Any, Any], Any]  # (theta, part) -> a pytree of tensors


class Compiled:
    """Compile work(theta, part), a function of its own, and call it for each part; results in the order of the parts.

    spread: on as many threads as torch may use. The first call then tries the first part alone: that compiles it, and
    shows whether the work draws random numbers. Work that does stays in order, one part after the other, or a seed
    would not give the same numbers again.
    """

    def __init__(self, work: Any):
        work.__code__ = work.__code__.replace()  # torch counts compilations by code object, and allows eight
        self.work, self.draws = work, None
        self.forms: dict[bool, Work] = {}

    def form(self, many: bool) -> Work:
        """many: for several threads, where a wrapper in Python would keep its lock while the kernels run."""
        if many not in self.forms:
            options: Any = {"cpp_wrapper": True} if many else None
            self.forms[many] = torch.compile(self.work, fullgraph=True, dynamic=False, options=options)
        return self.forms[many]

    def __call__(self, theta: Any, parts: Sequence[Any], *, spread: bool) -> Iterator[Any]:
        many = spread and torch.get_num_threads() > 1 and len(parts) > 1
        work = self.form(many)
        if not many:
            yield from (work(theta, part) for part in parts)
            return
        pool = _pool(torch.get_num_threads())
        alone = lambda part: pool.submit(work, theta, part).result()
        if self.draws is None:
            before = torch.get_rng_state()
            yield alone(parts[0])
            self.draws = not torch.equal(before, torch.get_rng_state())
            parts = parts[1:]
        yield from (map(alone, parts) if self.draws else pool.map(lambda part: work(theta, part), parts))


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "metaloop", initializer=lambda: torch.set_num_threads(1))
