"""Pickles read without unpickling: arrays, dicts, lists, tuples, words and numbers, and nothing that could run code.

A pickle is a program for a small machine with a stack; three of its instructions call whatever function they name. This
machine knows those instructions for the few names by which arrays and bytes are written, by numpy 1 and 2 and Python 2
and 3, and builds these itself. Any other name is refused, in words. It imports nothing.
"""

import codecs
import mmap
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

PROTOCOLS = 5
KINDS = "biufSUO"  # of numbers, words and objects, which are themselves what this machine builds
WHY = "only arrays, dicts, lists and words are read from pickles, since anything else could run code"


class _Name(str):
    """A function or class that the pickle names."""

    __slots__ = ()


class _Dtype:
    """numpy.dtype(code), then its byte order."""

    def __init__(self, code: Any = None, *_: Any):
        if not (isinstance(code, str) and code[:1] in KINDS and code[1:].isdecimal() and len(code) < 12):
            raise ValueError(f"it holds an array of {str(code)[:40]!r}; {WHY}")
        self.dtype = np.dtype(code)

    def state(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 2 and state[1] in ("|", "<", ">", "=")):
            raise ValueError("a type of numbers in it is told as none is")
        if state[1] != "|" and self.dtype.kind not in "SO":
            self.dtype = self.dtype.newbyteorder(state[1])


class _Array:
    """An array: empty, then filled by its state."""

    array: Any = None

    def state(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise ValueError("an array in it is told as none is")
        _, shape, dtype, fortran, data = state
        self.array = _filled(data, dtype, shape, "F" if fortran else "C")


def _filled(data: Any, dtype: Any, shape: Any, order: Any = "C", *_: Any) -> np.ndarray:
    """The array of some bytes, or of some objects."""
    sound = isinstance(shape, tuple) and all(isinstance(n, int) and n >= 0 for n in shape)
    if not (isinstance(dtype, _Dtype) and sound and order in ("C", "F", "A", "K")):
        raise ValueError("an array in it is told as none is")
    n, order = int(np.prod(shape, dtype=object)), "F" if order == "F" else "C"
    if dtype.dtype.kind == "O":
        if not isinstance(data, list) or len(data) != n:
            raise ValueError("an array in it is of another size than its objects")
        flat = np.empty(n, object)
        flat[:] = data
        return flat.reshape(shape, order=order)
    data = _bytes(data)
    if dtype.dtype.itemsize == 0 or len(data) != n * dtype.dtype.itemsize:
        raise ValueError("an array in it is of another size than its bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def _bytes(data: Any) -> Any:
    """The bytes that are meant: Python 2 writes them as words."""
    if isinstance(data, str):
        return data.encode("latin-1")
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError("bytes in it are told as none are")
    return data


def _encode(text: Any = "", encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "utf8", "ascii"):
        raise ValueError("bytes in it are told as none are")
    return text.encode(encoding)


def _scalar(dtype: Any, data: Any = b"") -> Any:
    return _filled(data, dtype, (1,))[0].item()


def _plain(data: Any = b"", encoding: Any = "latin1") -> bytes:
    return _encode(data, encoding) if isinstance(data, str) else bytes(_bytes(data))


CALLS: dict[str, Callable[..., Any]] = {
    **{
        f"numpy.{core}.{name}": made
        for core in ("core", "_core")
        for name, made in (
            ("multiarray._reconstruct", lambda *_: _Array()), ("numeric._frombuffer", _filled),
            ("multiarray.scalar", _scalar),
        )
    },
    "numpy.dtype": _Dtype, "_codecs.encode": _encode,
    **{f"{module}.{name}": _plain for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")},
}  # fmt: skip
NAMES = {*CALLS, "numpy.ndarray"}


class Machine:
    """Reads one pickle out of a buffer. Bytes that are not copied on the way are views into it."""

    def __init__(self, buffer: Any):
        self.buffer, self.at = memoryview(buffer), 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the pickle holds. Raises ValueError if it holds anything but plain data, or is damaged."""
        try:
            while True:
                code = self.take(1)[0]
                if code == ord("."):
                    return _real(self.stack[-1])
                step = STEPS.get(code)
                if step is None:
                    raise ValueError(f"it holds the instruction {bytes([code])!r}; {WHY}")
                step(self)
        except (IndexError, KeyError, TypeError, AttributeError, struct.error, UnicodeError, OverflowError) as error:
            raise ValueError(f"it is no whole pickle ({type(error).__name__} at byte {self.at})") from None

    def take(self, n: int) -> memoryview:
        if n < 0 or self.at + n > len(self.buffer):
            raise IndexError("the end")
        self.at += n
        return self.buffer[self.at - n : self.at]

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> bytes:
        block = bytearray()
        while (byte := self.take(1)[0]) != 10:
            block.append(byte)
        return bytes(block.removesuffix(b"\r"))

    def push(self, thing: Any) -> None:
        self.stack.append(thing)

    def top(self) -> list[Any]:
        """What was put down since the last mark."""
        above, self.stack = self.stack, self.marks.pop()
        return above

    def name(self, module: Any, name: Any) -> None:
        called = f"{module}.{name}"
        if called not in NAMES:
            raise ValueError(f"it names {called[:80]}; {WHY}")
        self.push(_Name(called))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or not isinstance(arguments, tuple) or function not in CALLS:
            raise ValueError(f"it calls {str(function)[:80]}; {WHY}")
        self.push(CALLS[function](*map(_real, arguments)))

    def build(self) -> None:
        state, thing = _real(self.stack.pop()), self.stack[-1]
        if not isinstance(thing, _Array | _Dtype):
            raise ValueError(f"it sets the state of a {type(thing).__name__}; {WHY}")
        thing.state(state)

    def fill(self, pairs: list[Any]) -> None:
        known = self.stack[-1]
        if not isinstance(known, dict):
            raise TypeError
        known.update(zip(map(_key, pairs[::2]), map(_real, pairs[1::2]), strict=True))

    def extend(self, items: list[Any]) -> None:
        known = self.stack[-1]
        if not isinstance(known, list):
            raise TypeError
        known.extend(map(_real, items))

    def number_in_words(self, text: bytes) -> None:
        self.push(text == b"01" if text in (b"00", b"01") else int(text))


def _real(thing: Any) -> Any:
    """The array itself, once it is filled."""
    if isinstance(thing, _Array) and thing.array is not None:
        return thing.array
    return thing


def _key(thing: Any) -> Any:
    thing = _real(thing)
    if isinstance(thing, bytes | bytearray | memoryview):
        thing = bytes(thing).decode("latin-1")
    if not isinstance(thing, str | int | float | bool | tuple | type(None)):
        raise TypeError
    return thing


def _quoted(text: bytes) -> str:
    if len(text) < 2 or text[:1] not in (b"'", b'"') or text[:1] != text[-1:]:
        raise TypeError
    return codecs.escape_decode(text[1:-1])[0].decode("latin-1")  # type: ignore[attr-defined]


def _long(data: memoryview) -> int:
    return int.from_bytes(data, "little", signed=True)


def _words(form: str, encoding: str) -> Callable[[Machine], None]:
    return lambda m: m.push(str(m.take(m.number(form)), encoding, "surrogatepass" if encoding == "utf-8" else "strict"))


def _raw(form: str) -> Callable[[Machine], None]:
    return lambda m: m.push(m.take(m.number(form)))


def _mark(m: Machine) -> None:
    m.marks.append(m.stack)
    m.stack = []


def _memo(where: Callable[[Machine], int]) -> Callable[[Machine], None]:
    return lambda m: m.memo.__setitem__(where(m), m.stack[-1])


def _known(where: Callable[[Machine], int]) -> Callable[[Machine], None]:
    return lambda m: m.push(m.memo[where(m)])


def _tuple(n: int) -> Callable[[Machine], None]:
    def step(m: Machine) -> None:
        parts = [m.stack.pop() for _ in range(n)][::-1]
        m.push(tuple(map(_real, parts)))

    return step


def _dict(m: Machine) -> None:
    pairs = m.top()
    m.push({})
    m.fill(pairs)


def _global(m: Machine) -> None:
    module, name = m.line(), m.line()
    m.name(module.decode("latin-1"), name.decode("latin-1"))


def _stack_global(m: Machine) -> None:
    name, module = m.stack.pop(), m.stack.pop()
    m.name(module, name)


def _class(m: Machine, what: Any) -> None:
    raise ValueError(f"it makes a {str(what)[:80]}; {WHY}")


def _protocol(m: Machine) -> None:
    if (protocol := m.take(1)[0]) > PROTOCOLS:
        raise ValueError(f"it is of protocol {protocol}, expected at most {PROTOCOLS}")


STEPS: dict[int, Callable[[Machine], Any]] = {
    ord(code): step for code, step in {
        "\x80": _protocol, "\x95": lambda m: m.take(8),
        "(": _mark, "0": lambda m: m.stack.pop(), "1": lambda m: m.top(), "2": lambda m: m.push(m.stack[-1]),
        # numbers
        "N": lambda m: m.push(None), "\x88": lambda m: m.push(True), "\x89": lambda m: m.push(False),
        "I": lambda m: m.number_in_words(m.line()), "L": lambda m: m.push(int(m.line().rstrip(b"L"))),
        "J": lambda m: m.push(m.number("<i")), "K": lambda m: m.push(m.take(1)[0]),
        "M": lambda m: m.push(m.number("<H")), "\x8a": lambda m: m.push(_long(m.take(m.take(1)[0]))),
        "\x8b": lambda m: m.push(_long(m.take(m.number("<i")))),
        "F": lambda m: m.push(float(m.line())), "G": lambda m: m.push(m.number(">d")),
        # words and bytes; Python 2 has one type for both
        "S": lambda m: m.push(_quoted(m.line())), "U": _words("<B", "latin-1"), "T": _words("<i", "latin-1"),
        "V": lambda m: m.push(m.line().decode("raw-unicode-escape")), "X": _words("<I", "utf-8"),
        "\x8c": _words("<B", "utf-8"), "\x8d": _words("<Q", "utf-8"),
        "C": _raw("<B"), "B": _raw("<I"), "\x8e": _raw("<Q"), "\x96": _raw("<Q"),
        # lists, tuples, dicts
        "]": lambda m: m.push([]), "a": lambda m: m.extend([m.stack.pop()]), "e": lambda m: m.extend(m.top()),
        "l": lambda m: m.push([*map(_real, m.top())]), ")": lambda m: m.push(()),
        "t": lambda m: m.push(tuple(map(_real, m.top()))),
        "\x85": _tuple(1), "\x86": _tuple(2), "\x87": _tuple(3),
        "}": lambda m: m.push({}), "d": _dict, "u": lambda m: m.fill(m.top()),
        "s": lambda m: m.fill([m.stack.pop(), m.stack.pop()][::-1]),
        # what was met before
        "p": _memo(lambda m: int(m.line())), "q": _memo(lambda m: m.take(1)[0]), "r": _memo(lambda m: m.number("<I")),
        "\x94": _memo(lambda m: len(m.memo)),
        "g": _known(lambda m: int(m.line())), "h": _known(lambda m: m.take(1)[0]),
        "j": _known(lambda m: m.number("<I")),
        # what others would call
        "c": _global, "\x93": _stack_global, "R": lambda m: m.reduce(), "b": lambda m: m.build(),
        "i": lambda m: _class(m, b".".join([m.line(), m.line()]).decode("latin-1")),
        "o": lambda m: _class(m, m.top()[0]),
        "\x81": lambda m: _class(m, m.stack[-2]), "\x92": lambda m: _class(m, m.stack[-3]),
        "\x8f": lambda m: _class(m, "set"), "\x91": lambda m: _class(m, "frozenset"),
        "P": lambda m: _class(m, "persistent object"), "Q": lambda m: _class(m, "persistent object"),
    }.items()
}  # fmt: skip


def read_pickle(path: str | os.PathLike) -> tuple[Any, mmap.mmap]:
    """What a pickle holds, of arrays, dicts, lists, tuples, words, bytes and numbers; and the file, mapped into memory,
    which arrays are views of where their bytes stand in it as they are.

    Raises ValueError, naming what it is, if the pickle holds anything else, or is damaged.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    except (OSError, ValueError) as error:
        reason = "it is empty" if isinstance(error, ValueError) else error.strerror
        raise ValueError(f"{path} cannot be read: {reason}.") from None
    try:
        return Machine(buffer).run(), buffer
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{path} is not read: {error}.") from None
