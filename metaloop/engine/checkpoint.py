"""Pytrees on disk: one safetensors file, written atomically, with JSON in its header. No pickle anywhere."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import save
from torch import Tensor

from ..torch_private import pytree


def flatten(tree: Any, prefix: str) -> dict[str, Tensor]:
    """A pytree as {"prefix/path/to/leaf": tensor}."""
    leaves, _ = pytree.tree_flatten_with_path(tree)
    return {"/".join([prefix, *map(_key, path)]): leaf for path, leaf in leaves}


def unflatten(tensors: Mapping[str, Tensor], like: Any, prefix: str, source: str) -> Any:
    """The pytree with the structure of `like` and the tensors that `flatten` named.

    Raises ValueError, naming the first difference, if a tensor is missing, unknown or of another shape.
    """
    named, spec = flatten(like, prefix), pytree.tree_structure(like)
    ours = {n for n in tensors if n.startswith(prefix + "/")}
    for name, leaf in named.items():
        if name not in ours:
            raise ValueError(f"{source} holds no '{name}': it is of another learner or architecture.")
        if tensors[name].shape != leaf.shape:
            raise ValueError(
                f"{source}: '{name}' has shape {tuple(tensors[name].shape)}, this learner wants "
                f"{tuple(leaf.shape)}: it is of another architecture."
            )
    if extra := sorted(ours - set(named)):
        raise ValueError(f"{source} holds '{extra[0]}', unknown here: it is of another learner or architecture.")
    return pytree.tree_unflatten([tensors[n].to(leaf.dtype) for n, leaf in named.items()], spec)


def write(path: Path, tensors: Mapping[str, Tensor], meta: Any) -> None:
    """Write tensors and JSON-able meta to path, all or nothing, durably."""
    named = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
    write_bytes(path, save(named, metadata={"json": json.dumps(meta, default=float)}))


def write_bytes(path: Path, data: bytes) -> None:
    """Replace the file at path by data, all or nothing, durably. Raises ValueError if the disk refuses."""
    target = Path(os.path.realpath(path))  # what a link leads to, not the link
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    if target.exists() and not target.is_file():
        raise ValueError(f"cannot write {path}: it is no file.")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise ValueError(f"cannot write {path}: {error.strerror}. What was there before is kept.") from None
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[dict[str, Tensor], Any]:
    """The tensors and the meta of a file that `write` wrote. Raises ValueError if it is not whole."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file.")
    try:
        with safetensors.safe_open(path, "pt") as file:
            meta = json.loads((file.metadata() or {})["json"])
            return {n: file.get_tensor(n) for n in file.keys()}, meta  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file.") from None
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise ValueError(f"{path} is damaged or not metaloop's ({_line(error)}).") from None


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], Any]:
    """An optimizer's state as named tensors and the JSON-able rest, in a form for any device."""
    state = optimizer.state_dict()
    tensors, rest = {}, {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{name}"] = value
            else:
                rest.setdefault(str(index), {})[name] = value
    groups = [{n: v if n != "capturable" else False for n, v in g.items()} for g in state["param_groups"]]
    return tensors, {"state": rest, "param_groups": groups}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Any) -> None:
    state: dict[int, dict[str, Any]] = {int(i): dict(entries) for i, entries in rest["state"].items()}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, index, key = name.split("/", 2)
            state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def _key(key: Any) -> str:
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
