"""What a search may choose: for each setting values, or a range.

    inner_steps=1,2,5            one of these
    hidden=[64,64],[32]          lists among them, as JSON
    inner_lr=0.01..1             a number in a range
    inner_lr=1e-3..1:log         its logarithm evenly spread
    width=8..64                  a whole number, ends included, where the setting takes whole numbers
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..recipes.keywords import meant


@dataclass(frozen=True)
class Choice:
    """One of these values, as JSON holds them; tuples for lists."""

    values: tuple[Any, ...]

    @cached_property
    def labels(self) -> tuple[Any, ...]:
        """The values as a study holds them: numbers, words, None; JSON where one is a list."""
        plain = all(value is None or isinstance(value, str | int | float) for value in self.values)
        return self.values if plain else tuple(map(json.dumps, self.values))

    def __str__(self) -> str:
        return ",".join(map(shown, self.values))


@dataclass(frozen=True)
class Range:
    """A number from low to high; log: evenly by its logarithm. whole: a whole number, both ends included."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __str__(self) -> str:
        low, high = (f"{end:g}" if float(f"{end:g}") == end else repr(end) for end in (self.low, self.high))
        return f"{low}..{high}{':log' * self.log}"


Space = dict[str, Choice | Range]


def read_space(given: Iterable[str] | Mapping[str, Any], *, known: Iterable[str] | None = None) -> Space:
    """The space that texts such as "inner_lr=1e-3..1:log" say, or a table of texts, lists of values, Choices, Ranges.

    A value is JSON, none, or else a word. known: the settings that there are.
    Raises ValueError, in one line, where a text says no space, a range is empty, or
    the logarithm of one is asked that is not above 0.
    """
    pairs = [*given.items()] if isinstance(given, Mapping) else [_pair(text) for text in given]
    if not pairs:
        raise ValueError("search: the space is empty. Say what may be chosen, such as inner_lr=1e-3..1:log.")
    names, space = None if known is None else [*known], {}
    for name, told in pairs:
        if names is not None and name not in names:
            raise ValueError(f"search: there is no setting '{name}'.{meant(name, names) or ' There are none.'}")
        if name in space:
            raise ValueError(f"search: '{name}' is in the space twice.")
        space[name] = _checked(name, _dimension(name, told))
    return space


def cells(space: Space) -> int | None:
    """How many different choices there are; None where there is no end of them."""
    sizes = [_size(dimension) for dimension in space.values()]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def cell(space: Space, number: int) -> dict[str, Any]:
    """The labels of one of the `cells`; the last setting changes fastest."""
    found = {}
    for name, dimension in reversed(space.items()):
        number, i = divmod(number, _size(dimension) or 1)
        found[name] = dimension.labels[i] if isinstance(dimension, Choice) else int(dimension.low) + i
    return {name: found[name] for name in space}


def value(dimension: Choice | Range, label: Any) -> Any:
    """A label, as the study has it, as the setting's value."""
    if isinstance(dimension, Choice):
        same = [v for v, known in zip(dimension.values, dimension.labels, strict=True)
                if known == label and type(known) is type(label)]  # fmt: skip
        return same[0]
    return label


def told(space: Space) -> dict[str, str]:
    """The space in its own words, in its order."""
    return {name: str(dimension) for name, dimension in space.items()}


def shown(value: Any) -> str:
    """A value as the language reads it."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _pair(text: str) -> tuple[str, str]:
    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    if not equals or not name or not rest.strip():
        raise ValueError(f"--space {text}: expected NAME=VALUES or NAME=LOW..HIGH, such as inner_lr=1e-3..1:log.")
    return name, rest.strip()


def _dimension(name: str, told: Any) -> Choice | Range:
    if isinstance(told, Choice | Range):
        return told
    if not isinstance(told, str):
        values = told if isinstance(told, Sequence) else [told]
        return Choice(tuple(tuple(v) if isinstance(v, list) else v for v in values))
    body, colon, scale = told.rpartition(":")
    if ".." not in told or told.lstrip().startswith("["):
        return Choice(tuple(anything(part) for part in _split(name, told)))
    if colon and scale.strip() != "log":
        raise ValueError(f"search: {name}={told}: a range may end in ':log', not in ':{scale}'.")
    low, _, high = (body if colon else told).partition("..")
    ends = [anything(end.strip()) for end in (low, high)]
    if not all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
        raise ValueError(f"search: {name}={told}: a range is from a number to a number.")
    whole = all(isinstance(end, int) for end in ends)
    return Range(*ends, log=bool(colon), whole=whole)


def _split(name: str, text: str) -> list[str]:
    """At commas outside brackets."""
    parts, depth = [""], 0
    for sign in text:
        depth += (sign == "[") - (sign == "]")
        if sign == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += sign
    if depth or not all(part.strip() for part in parts):
        raise ValueError(f"search: {name}={text}: a value is missing, or a bracket is open.")
    return [part.strip() for part in parts]


def _checked(name: str, dimension: Choice | Range) -> Choice | Range:
    if isinstance(dimension, Choice):
        if not dimension.values:
            raise ValueError(f"search: {name}: no values to choose from.")
        texts = [*map(shown, dimension.values)]
        if again := [text for text in texts if texts.count(text) > 1]:
            raise ValueError(f"search: {name}={dimension}: {again[0]} stands there twice.")
        return dimension
    if not all(map(math.isfinite, (dimension.low, dimension.high))):
        raise ValueError(f"search: {name}={dimension}: a range has two ends.")
    if not dimension.low < dimension.high:
        why = f"{dimension.low:g} is not below {dimension.high:g}"
        raise ValueError(f"search: {name}={dimension}: the range is empty, {why}.")
    if dimension.log and dimension.low <= 0:
        raise ValueError(f"search: {name}={dimension}: a logarithm wants a range above 0.")
    return dimension


def _size(dimension: Choice | Range) -> int | None:
    if isinstance(dimension, Choice):
        return len(dimension.values)
    return int(dimension.high) - int(dimension.low) + 1 if dimension.whole else None


def anything(text: str) -> Any:
    """The value that a text says where nobody knows the kind: JSON, true, false, none, or else a word."""
    known = {"none": None, "true": True, "false": False}
    if text.lower() in known:
        return known[text.lower()]
    try:
        return _tuples(json.loads(text))
    except ValueError:
        return text


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
