"""The keyword settings of a recipe: which there are, of what kind, and how one is read from text.

`settings(recipe)` is all that one has to know to set them: by hand, `metaloop train NAME --set inner_lr=0.4`, or by a
search.
"""

from __future__ import annotations

import inspect
import json
import math
import types
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .plan import Recipe, tuples


@dataclass(frozen=True)
class Setting:
    """A keyword of a recipe's plan function. kind: int, float, bool, str, None; literals, unions and tuples of them;
    values: what it is in each budget."""

    name: str
    kind: Any
    values: dict[str, Any]

    @property
    def published(self) -> Any:
        return self.values["full"]

    @property
    def words(self) -> str:
        """The kind, as a person is told."""
        return _words(self.kind)

    def read(self, text: str) -> Any:
        """The value that a text says: `3`, `0.4`, `true`, `none`, `max`, `1,5`, `[[5,1],[20,1]]`.

        Raises ValueError unless it is of this kind.
        """
        told = text.strip()
        known = {"none": None, "null": None, "true": True, "false": False}
        for form in (told, f"[{told}]"):
            try:
                return self.check(known[told.lower()] if told.lower() in known else json.loads(form))
            except (ValueError, RecursionError):
                continue
        return self.check(told)

    def check(self, value: Any) -> Any:
        """The value, as the plan function takes it. Raises ValueError unless it is of this kind."""
        try:
            return _fitting(tuples(value), self.kind)
        except ValueError:
            raise ValueError(f"{self.name}={str(value)[:40]!r}, expected {self.words}.") from None


def settings(recipe: Recipe) -> dict[str, Setting]:
    """The settings of a recipe by name, in the order of its plan function. The number of steps is none of them."""
    given = {budget: recipe.settings(budget) for budget in recipe.budgets}
    parameters = inspect.signature(recipe.build).parameters
    names = [n for n in parameters if n in given["full"]]
    names += [n for n in given["full"] if n not in names]
    try:
        hints = get_type_hints(recipe.build, localns={"Pool": Any, "Sequence": Sequence})
    except NameError:  # an annotation that only a type checker can read
        hints = {}
    kind = lambda name: _plain(hints[name]) if name in hints and name in parameters else _kind_of(given["full"][name])
    return {n: Setting(n, kind(n), {budget: known[n] for budget, known in given.items()}) for n in names}


def meant(name: str, known: Iterable[str]) -> str:
    """" Did you mean 'nearest'?", or nothing where nothing is known."""
    near = get_close_matches(name, known, n=1, cutoff=0.0)
    return f" Did you mean '{near[0]}'?" if near else ""


def find_setting(recipe: Recipe, name: str) -> Setting:
    """The setting of that name. Raises ValueError, suggesting the nearest, if there is none."""
    known = settings(recipe)
    if name in known:
        return known[name]
    if name == "steps":
        raise ValueError(f"{recipe.name}: the number of steps is no setting, but an option: --steps N.")
    near = meant(name, known)
    raise ValueError(f"{recipe.name} has no setting '{name}'.{near} `metaloop recipes {recipe.name}` lists them.")


def read(recipe: Recipe, pairs: Iterable[str]) -> dict[str, Any]:
    """The settings that texts such as "inner_lr=0.4" say; the last of a name counts.

    Raises ValueError where a text is no such pair, names no setting of the recipe, or a value of another kind.
    """
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            raise ValueError(f"--set {pair}: expected NAME=VALUE, such as --set {next(iter(settings(recipe)))}=VALUE.")
        found[name] = find_setting(recipe, name).read(text)
    return found


def _plain(hint: Any) -> Any:
    """An annotation in the words of `Setting.kind`: sequences are tuples."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return Union[tuple(_plain(one) for one in inner)]  # noqa: UP007
    if origin is tuple:
        return tuple[tuple(one if one is ... else _plain(one) for one in inner)]
    if inner and origin is not Literal:
        return tuple[_plain(inner[0]), ...]
    return hint


def _kind_of(value: Any) -> Any:
    """Of a setting that has no annotation."""
    if isinstance(value, tuple):
        return tuple[_kind_of(value[0]), ...] if value else tuple
    return Any if value is None else type(value)


def _fitting(value: Any, kind: Any) -> Any:
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any or (value is None and kind in (None, types.NoneType)):
        return value
    if origin in (Union, types.UnionType):
        for one in inner:
            try:
                return _fitting(value, one)
            except ValueError:
                continue
    elif origin is Literal and value in inner:
        return value
    elif origin is tuple and isinstance(value, tuple) and value:
        if inner[-1] is ...:
            return tuple(_fitting(one, inner[0]) for one in value)
        if len(inner) == len(value):
            return tuple(map(_fitting, value, inner))
    elif kind is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    elif kind in (int, str, bool, tuple) and type(value) is kind and (type(value) is not int or value >= 0):
        return value
    raise ValueError


def _words(kind: Any) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_words, inner))
    if origin is Literal:
        return " or ".join(map(str, inner))
    if origin is tuple:
        parts = [_words(one) for one in inner if one is not ...]
        return f"a list, each {parts[0]}" if inner[-1] is ... else f"({', '.join(parts)})"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", types.NoneType: "none"}
    return names.get(kind, "a list" if kind is tuple else "any value")
