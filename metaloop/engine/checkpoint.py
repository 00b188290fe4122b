"""Pytrees on disk: one safetensors file, written atomically, with JSON in its header. No pickle anywhere."""

import json
import os
import re
import struct
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load, save
from torch import Tensor

from ..torch_private import pytree
from .schema import parse


def flatten(tree: Any, prefix: str) -> dict[str, Tensor]:
    """A pytree as {"prefix/path/to/leaf": tensor}; in a key "/" is written %2F, and "%" %25.

    Raises ValueError if a leaf is no tensor, or if two keys are the same text (1 and "1").
    """
    named: dict[str, Tensor] = {}
    for name, leaf in _leaves(tree, prefix, _escaped):
        if not isinstance(leaf, Tensor):
            raise ValueError(f"'{name}' is {type(leaf).__name__}, expected a tensor.")
        if name in named:
            raise ValueError(f"two tensors are called '{name}': of two keys in one table that are written alike.")
        named[name] = leaf
    return named


def unflatten(tensors: Mapping[str, Tensor], like: Any, prefix: str, source: str) -> Any:
    """The pytree with the structure of `like` and the tensors that `flatten` named.

    Raises ValueError, naming the first difference, if a tensor is missing, unknown, of another shape or dtype, or not
    finite where that of `like` is (-inf is let through where `like` has no numbers).
    """
    named, spec = flatten(like, prefix), pytree.tree_structure(like)
    ours = {n for n in tensors if n.startswith(prefix + "/")}
    if before := _as_before(like, prefix, ours, named):
        tensors = {name: tensors[was] for name, was in before.items()}
        ours = set(tensors)
    for name, leaf in named.items():
        if name not in ours:
            raise ValueError(f"{source} holds no '{name}': it is of another learner or architecture.")
        found = tensors[name]
        if found.shape != leaf.shape:
            raise ValueError(
                f"{source}: '{name}' has shape {tuple(found.shape)}, this learner wants "
                f"{tuple(leaf.shape)}: it is of another architecture."
            )
        if found.dtype != leaf.dtype:
            raise ValueError(f"{source}: '{name}' is {found.dtype}, this learner wants {leaf.dtype}.")
        masked = found == -torch.inf if leaf.is_meta else ~leaf.isfinite().to(found.device)  # a mask may hold -inf
        if not (found.isfinite() | masked).all():
            raise ValueError(f"{source} is damaged: '{name}' holds numbers that are not finite.")
    if extra := sorted(ours - set(named)):
        raise ValueError(f"{source} holds '{extra[0]}', unknown here: it is of another learner or architecture.")
    return pytree.tree_unflatten([tensors[n] for n in named], spec)


def write(path: Path, tensors: Mapping[str, Tensor], meta: Any) -> None:
    """Write tensors and JSON-able meta to path, all or nothing, durably. Raises ValueError if they cannot be."""
    try:
        named = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        data = save(named, metadata={"json": json.dumps(meta, default=float)})
    except (KeyError, RuntimeError, NotImplementedError, safetensors.SafetensorError) as error:
        kinds = ", ".join(sorted({str(t.dtype) for t in tensors.values()} | {str(t.layout) for t in tensors.values()}))
        raise ValueError(f"cannot write {path}: it holds no tensors such as these: {kinds} ({_line(error)}).") from None
    write_bytes(path, data)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file at path by data, all or nothing, durably. Raises ValueError if the disk refuses."""
    target = Path(os.path.realpath(path))  # what a link leads to, not the link
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {path}: it is no file.")
    sweep(target.parent, f".{target.name}.", ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync(target.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        raise ValueError(f"cannot write {path}: {error.strerror}. What was there before is kept.") from None


def _sync(folder: Path) -> None:
    """What the folder holds is on disk."""
    if os.name == "posix":
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def sweep(folder: Path, before: str, after: str) -> None:
    """Take away what killed processes left: temporary files `before` PID `after` of processes that are no more."""
    name = re.compile(re.escape(before) + r"(\d{1,9})" + re.escape(after))
    with suppress(OSError):
        for path in folder.iterdir():
            if (found := name.fullmatch(path.name)) and not lives(int(found[1])):
                path.unlink(missing_ok=True)


def lives(pid: int) -> bool:
    """Whether there is such a process on this machine, as far as can be told."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another's
        pass
    return True


def read(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors and the meta of a file that `write` wrote, in memory of their own: what becomes of the file later
    does not reach them. Raises ValueError if it is not whole."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file.")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file.")
    try:
        data = path.read_bytes()
        tensors = load(data)
        (size,) = struct.unpack_from("<Q", data)
        header = parse(data[8 : 8 + size], "its header")
        return tensors, parse(header["__metadata__"]["json"], "its header")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file.") from None
    except Exception as error:  # what safetensors and torch raise for foreign bytes has no common base
        raise ValueError(f"{path} is damaged or not metaloop's ({_line(error)}).") from None


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """An optimizer's state as named tensors and the JSON-able rest, in a form for any device.

    The rest says how many tensors there are, and whether they are finite: so it is seen where that is not so later.
    """
    state = optimizer.state_dict()
    tensors, rest = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                rest.setdefault(str(index), {})[name] = value
    groups = [{n: v if n != "capturable" else False for n, v in g.items()} for g in state["param_groups"]]
    told = {"held": len(tensors), "finite": all(bool(t.isfinite().all()) for t in tensors.values())}
    return tensors, {"state": rest, "param_groups": groups, **told}


def _escaped(key: str) -> str:
    return key.replace("%", "%25").replace("/", "%2F")


def _leaves(tree: Any, prefix: str, written) -> list[tuple[str, Any]]:
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return [("/".join([prefix, *(written(_key(key)) for key in path)]), leaf) for path, leaf in leaves]


def _as_before(like: Any, prefix: str, found: set[str], named: Mapping[str, Any]) -> dict[str, str]:
    """What tensors were called before keys were escaped, if that is what a file holds; else nothing."""
    were = [name for name, _ in _leaves(like, prefix, str)]
    if found == set(named) or found != set(were) or len(found) != len(were):
        return {}
    return dict(zip(named, were, strict=True))


def _key(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
