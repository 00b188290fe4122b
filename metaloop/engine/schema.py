"""What is read from a file has the form that is expected of it, or is refused: once, where it comes in."""

import dataclasses
import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

LARGEST = 2**63 - 1  # what a count may be


def read_bytes(path: Path) -> bytes:
    """A file. Raises ValueError, naming it, if there is none, or if it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ValueError(f"{path} cannot be read: it is no file.")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}).") from None


def read_json(path: Path) -> Any:
    """What a JSON file says. Raises ValueError, naming it, if it cannot be read."""
    return parse(read_bytes(path), str(path))


def parse(text: str | bytes, where: str) -> Any:
    """What JSON says. Raises ValueError that begins with `where`."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "too deep" if isinstance(error, RecursionError) else str(error).partition("\n")[0]
        raise ValueError(f"{where} cannot be read: it is no JSON ({reason}).") from None


def conform(value: Any, kind: Any, where: str, at: str = "") -> Any:
    """The value, if it is of the kind: a type that JSON has, list[T], dict[str, T], A | B, Literal, Any; a dataclass,
    which is made of a table that holds its fields, and may hold more. An int serves as a float.

    Raises ValueError: `where` is damaged, and what it says `at` which place.
    """

    def wrong(wanted: str) -> ValueError:
        shown = value if isinstance(value, str | int | float | None) else type(value).__name__
        place = f"'{at}' is" if at else "it holds"
        return ValueError(f"{where} is damaged: {place} {str(shown)[:40]!r}, expected {wanted}.")

    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        if not isinstance(value, dict):
            raise wrong("a table")
        hints = get_type_hints(kind)
        given = {}
        for field in dataclasses.fields(kind):
            if field.name in value:
                given[field.name] = conform(value[field.name], hints[field.name], where, _join(at, field.name))
            elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                raise ValueError(f"{where} is damaged: it does not say '{_join(at, field.name)}'.")
        try:
            return kind(**given)  # type: ignore[operator]
        except ValueError as error:
            raise ValueError(f"{where} is damaged: {error}.") from None
    if origin in (Union, types.UnionType):
        reasons = []
        for one in inner:
            try:
                return conform(value, one, where, at)
            except ValueError as error:
                reasons.append(error)
        raise wrong(" or ".join(_words(one) for one in inner)) if all(map(_plain, inner)) else reasons[0]
    if origin is Literal:
        if value not in inner or isinstance(value, bool):
            raise wrong(" or ".join(map(repr, inner)))
        return value
    if origin is list:
        if not isinstance(value, list):
            raise wrong("a list")
        return [conform(item, inner[0], where, f"{at}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict):
            raise wrong("a table")
        return {str(name): conform(item, inner[1], where, _join(at, str(name))) for name, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST:
        return value
    if not isinstance(value, kind) or (kind is int and (isinstance(value, bool) or abs(value) > LARGEST)):
        raise wrong(_words(kind))
    return value


def _plain(kind: Any) -> bool:
    return kind in (int, float, str, bool, types.NoneType)


def _words(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    return names.get(kind, "a table" if kind is dict else getattr(kind, "__name__", str(kind)))


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
