"""Chunks of tasks side by side: one thread for each core, each computing with that core alone.

Small convolutions do not keep two cores busy from within; two chunks at once do. Torch's operations do not hold the
interpreter's lock, nor does compiled work, for which torch writes a wrapper in C++.

Threads must share nothing that changes. A `functional` network has a copy of its module for each thread. Work stays in
order, one part after the other, where a module is called in any other way, where it draws random numbers (a seed
would not give the same again), and where the caller's autocast or another mode of torch holds for one thread alone.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook

from ..nn.functional import is_own
from ..torch_private import compile_anew, modes, of_compiler

Work = Callable[[Any, Any], Any]  # (theta, part) -> a pytree of tensors


def cores() -> int:
    """How many chunks may be computed at once; one where torch.compile traces the call."""
    return 1 if torch.compiler.is_compiling() else torch.get_num_threads()


class SideBySide:
    """work(theta, part) for many parts, on as many threads as torch may use, or in order where it must be."""

    def __init__(self, work: Work):
        _keep_freed()
        self.work = work
        self.in_order: bool | None = None  # that it must be; None: not known yet

    def __call__(self, theta: Any, parts: Sequence[Any], *, spread: bool) -> Iterator[Any]:
        """The results, in the order of the parts. spread: whether more than one thread may be used.

        The first call tries the first part alone, to see what it does; if it must stay in order, it is done again.
        """
        if spread and cores() > 1 and len(parts) > 1 and not self.in_order and not modes():
            pool, work = _pool(cores()), self.form(many=True)
            if self.in_order is None:
                before = torch.get_rng_state()
                with _foreign_modules() as foreign:
                    first = pool.submit(work, theta, parts[0]).result()
                self.in_order = bool(foreign) or not torch.equal(before, torch.get_rng_state())
                if self.in_order:
                    torch.set_rng_state(before)
                else:
                    yield first
                    parts = parts[1:]
            if not self.in_order:
                with _one_thread():
                    yield from pool.map(lambda part: work(theta, part), parts)
                return
        work = self.form(many=False)
        yield from (work(theta, part) for part in parts)

    def form(self, many: bool) -> Work:
        """The work as it is called. many: on several threads."""
        return self.work


class Compiled(SideBySide):
    """The same, compiled. The first call compiles it; if that fails, once more without torch's cache, where a process
    that was killed may have left something half written."""

    def __init__(self, work: Any):
        work.__code__ = work.__code__.replace()  # torch counts compilations by code object, and allows eight
        super().__init__(work)
        self.forms: dict[bool, Work] = {}
        self.works = False

    def __call__(self, theta: Any, parts: Sequence[Any], *, spread: bool) -> Iterator[Any]:
        if self.works:
            yield from super().__call__(theta, parts, spread=spread)
            return
        before = torch.get_rng_state()
        try:
            results = [*super().__call__(theta, parts, spread=spread)]
        except Exception as error:
            if not of_compiler(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            print(f"torch.compile failed ({reason}); once more, without its cache in {compile_anew()}", file=sys.stderr)
            self.forms, self.in_order = {}, None
            torch.set_rng_state(before)
            results = [*super().__call__(theta, parts, spread=spread)]
        self.works = True
        yield from results

    def form(self, many: bool) -> Work:
        """many: a wrapper in Python would keep its lock while the kernels run."""
        if many not in self.forms:
            options: Any = {"cpp_wrapper": True} if many else None
            self.forms[many] = torch.compile(self.work, fullgraph=True, dynamic=False, options=options)
        return self.forms[many]


@contextmanager
def _one_thread() -> Iterator[None]:
    """The caller, who adds up what comes, leaves the other cores alone; threads of OpenMP keep theirs busy waiting."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _foreign_modules() -> Iterator[list[str]]:
    """What modules are called within this otherwise than as `functional` networks; compiled code calls none."""
    found: list[str] = []

    def see(module, _):
        if not is_own(module):
            found.append(type(module).__name__)

    handle = register_module_forward_pre_hook(see)
    try:
        yield found
    finally:
        handle.remove()


@cache
def _keep_freed() -> None:
    """Let glibc keep freed memory for the next chunk, which else comes back from the system page by page.

    It keeps up to twice the largest block that it has seen freed, of those below 32 MB; by itself it sees small ones.
    """
    torch.empty(31 << 20, dtype=torch.uint8)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "metaloop", initializer=lambda: torch.set_num_threads(1))


def on_cores(work: Callable[[Sequence[Any]], None], parts: Sequence[Any], most: int) -> None:
    """work(some of the parts) on each of at most `most` cores, with one thread each, for parts that share nothing."""
    beside = max(1, min(cores(), most, len(parts)))
    _keep_freed()
    with _one_thread():
        if beside == 1:
            work(parts)
        else:
            for _ in _pool(beside).map(work, [parts[first::beside] for first in range(beside)]):
                pass
