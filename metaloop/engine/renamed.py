"""Keywords that have a new name: the old one goes on for one release, with a warning."""

import warnings
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def renamed(old: str, new: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """A function's keyword `new` may be given by its old name too. Raises ValueError if it is given by both."""

    def decorate(f: Callable[P, T]) -> Callable[P, T]:
        @wraps(f)
        def call(*arguments: P.args, **keywords: P.kwargs) -> T:
            if old in keywords:
                called = f"{getattr(f, '__name__', 'call')}: {old}= is now called {new}="
                if new in keywords:
                    raise ValueError(f"{called}, and both are given. Leave out {old}.")
                warnings.warn(f"{called}; the old name goes with the next release.", FutureWarning, stacklevel=2)
                keywords[new] = keywords.pop(old)
            return f(*arguments, **keywords)

        return call

    return decorate
