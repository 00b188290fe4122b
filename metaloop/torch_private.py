"""What is used here of torch that torch does not promise to keep: all of it, so that one file follows its changes.

Where a name may go missing, what stands in for it costs time alone.
"""

import atexit
import os
import shutil
import sys
import tempfile
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.nn.utils.parametrizations import _SpectralNorm as SpectralNorm
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = [
    "SpectralNorm", "TorchDispatchMode", "compile_anew", "in_vmap", "modes", "of_compiler", "per_task", "pytree",
    "values",
]  # fmt: skip


def of_compiler(error: Exception) -> bool:
    """Whether torch.compile failed behind its trace: at its compiler, or at what lies in its cache."""
    failed = getattr(sys.modules.get("torch._dynamo.exc"), "BackendCompilerFailed", OSError)
    return isinstance(error, failed | OSError | ImportError | EOFError | SyntaxError)


def compile_anew() -> str:
    """Let torch.compile forget what it has compiled, and use a cache of this process's own from now on. Where its
    cache was."""
    torch.compiler.reset()
    try:
        from torch._inductor.runtime.cache_dir_utils import cache_dir
        from torch._inductor.utils import clear_caches

        before = cache_dir()
        clear_caches()
    except ImportError:
        before = "torch's"
    own = tempfile.mkdtemp(prefix="torchinductor_")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = own
    return before


def in_vmap() -> bool:
    """Whether work is being batched by torch.func.vmap; True where torch does not tell."""
    try:
        functorch = torch._C._functorch  # type: ignore[attr-defined]
        return any(level.key() == functorch.TransformType.Vmap for level in functorch.get_interpreter_stack() or ())
    except (AttributeError, TypeError):
        return True


def per_task() -> bool:
    """Whether a gradient is being taken of each task in a vmap, of weights that are or will be the task's own; False
    where torch does not tell."""
    try:
        functorch = torch._C._functorch  # type: ignore[attr-defined]
        kinds = [level.key() for level in functorch.get_interpreter_stack() or ()]
        batched = functorch.TransformType.Vmap
        return batched in kinds and functorch.TransformType.Grad in kinds[kinds.index(batched) :]
    except (AttributeError, TypeError):
        return False


def modes() -> int:
    """How many of torch's modes hold for this thread, and would not for others; one where torch does not tell."""
    try:
        of_python = torch._C._len_torch_function_stack() + torch._C._len_torch_dispatch_stack()
    except (AttributeError, TypeError):
        return 1
    return torch.is_autocast_enabled("cpu") + of_python


def values(t: torch.Tensor) -> list[Any] | None:
    """All the values of a tensor on a CPU, of every task where tasks are batched; None where they cannot be seen: while
    torch.compile traces, or where torch does not tell."""
    if t.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    try:
        functorch = torch._C._functorch  # type: ignore[attr-defined]
        while functorch.is_functorch_wrapped_tensor(t):
            t = functorch.get_unwrapped(t)
    except AttributeError:
        return None
    rows = t.tolist() if type(t) is torch.Tensor else None
    while rows and isinstance(rows, list) and isinstance(rows[0], list):
        rows = [value for row in rows for value in row]
    return rows if isinstance(rows, list) else None
