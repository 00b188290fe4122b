"""A run is a folder; this module finds out what is in one.

    run.json                   what is trained: recipe, options, seed, versions, machine
    metrics.jsonl              one line per logged step
    checkpoint-*.safetensors   theta, the optimizer and the step (the two newest are kept)
    events.out.tfevents.*      the same metrics for TensorBoard
"""

import json
import os
import platform
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Learner, Theta
from . import checkpoint
from .theta import opened


@dataclass
class Run:
    """What meta-training leaves: theta, the learner to use it with, and the folder that keeps it."""

    learner: Learner  # as at meta-test
    theta: Theta
    step: int = 0
    folder: Path | None = None
    info: dict[str, Any] = field(default_factory=dict)  # run.json
    plan: Any = None  # the recipe's, if it was trained by one
    seconds: float = 0.0  # of training
    memory: dict[str, int] = field(default_factory=dict)  # bytes at the peak: host, gpu

    @classmethod
    def open(cls, folder: str | Path, learner: Learner, *, at_test: Learner | None = None, plan: Any = None) -> "Run":
        """The run in a folder, at its newest checkpoint; `learner` is the one it was trained with.

        Raises ValueError if the folder holds no run, or a damaged one, or one of another learner.
        """
        folder = Path(folder)
        info = read_info(folder)
        path = max(checkpoints(folder), default=None)
        if path is None:
            raise ValueError(f"{folder} has no checkpoint yet. Train on with --resume (resume=True).")
        try:
            tensors, meta = checkpoint.read(path)
        except ValueError as error:
            raise ValueError(f"{error} Training with --resume goes on from the checkpoint before it.") from None
        theta = opened(learner, tensors, str(path))
        kept = {"seconds": meta["seconds"], "memory": meta["memory"]}
        return cls(at_test or learner, theta, meta["step"], folder, info, plan, **kept)


def read_info(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises ValueError if there is none."""
    try:
        return json.loads((folder / "run.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(f"{folder} holds no run (no run.json).") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / 'run.json'} cannot be read ({error}).") from None


def prepare(folder: Path, resume: bool, info: dict[str, Any], *, longer: bool = False) -> dict[str, Any]:
    """Make the folder of a new run, or check that the one to be resumed was started in the same way.

    longer: whether it may go on to more steps than it was started for: not where a schedule depends on their number.
    """
    if (folder / "run.json").exists() or checkpoints(folder):
        if not resume:
            raise ValueError(f"{folder} holds a run. Resume it (--resume, resume=True) or choose another folder.")
        recorded = read_info(folder)
        given = json.loads(json.dumps(info))
        for name, value in given.items():
            was, value = _apart(recorded.get(name, value), value)
            if was != value and not (name == "steps" and longer and was < value):
                how = f"{folder} was started with {name}={was!r}, now it is {value!r}."
                raise ValueError(f"{how} Resume with the same, or choose another folder.")
        if recorded.get("steps") != given.get("steps", recorded.get("steps")):
            recorded["steps"] = given["steps"]
            checkpoint.write_bytes(folder / "run.json", json.dumps(recorded, indent=2).encode())
    else:
        recorded = {**info, "versions": versions(), "machine": machine()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cannot make the run folder {folder}: {error.strerror}.") from None
        checkpoint.write_bytes(folder / "run.json", json.dumps(recorded, indent=2).encode())
    for left in folder.glob(".*.tmp"):  # by a killed process
        left.unlink(missing_ok=True)
    return recorded


def _apart(was: Any, now: Any) -> tuple[Any, Any]:
    """Both, or of two tables the entries that differ: what only one of them knows counts as the same."""
    if not (isinstance(was, dict) and isinstance(now, dict)):
        return was, now
    differ = [name for name in now if was.get(name, now[name]) != now[name]]
    return {name: was[name] for name in differ}, {name: now[name] for name in differ}


def undo(folder: Path) -> None:
    """Take away a run of which nothing came: one without a checkpoint."""
    if (folder / "run.json").exists() and not checkpoints(folder):
        for name in ("run.json", "metrics.jsonl", "events.out.tfevents.*"):
            for path in folder.glob(name):
                path.unlink()
        with suppress(OSError):  # something else is in it
            folder.rmdir()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    return sorted(folder.glob("checkpoint-*.safetensors"))


def appears(folder: Path, step: int, seconds: float = 3.0) -> bool:
    """Whether a checkpoint of that step or a later one is there, or is written by another process before long."""
    until = time.monotonic() + seconds
    while not any(path.stem >= f"checkpoint-{step:08d}" for path in checkpoints(folder)):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def newest_whole(folder: Path) -> tuple[Path, dict[str, Tensor], Any] | None:
    """The newest checkpoint that can be read, with its content; newer ones that are damaged are set aside.

    Raises ValueError if there are checkpoints and none is whole.
    """
    damaged = []
    for path in reversed(checkpoints(folder)):
        try:
            found = path, *checkpoint.read(path)
        except ValueError as error:
            damaged.append((path, error))
            continue
        for bad, error in damaged:
            print(f"{error} Set aside as {bad.stem}.damaged; going on from {path.name}.", file=sys.stderr)
            bad.rename(bad.with_suffix(".damaged"))
        return found
    if damaged:
        raise ValueError(f"{damaged[0][1]} No other checkpoint is left: delete it to start anew with --resume.")
    return None


def versions() -> dict[str, str]:
    from .. import __version__

    return {"metaloop": __version__, "torch": torch.__version__, "python": platform.python_version()}


def machine() -> dict[str, Any]:
    """What computes here: no names of hosts or users."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    processes = int(os.environ.get("WORLD_SIZE", 1))
    return {"cpu": cpu, "cores": cores, "threads": torch.get_num_threads(), "gpus": gpus, "processes": processes}


def peak_memory(before: dict[str, int]) -> dict[str, int]:
    """The most bytes this process has held so far, or an earlier one: "host" and "gpu", where known."""
    now = {}
    try:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        now["host"] = peak if sys.platform == "darwin" else peak * 1024
    except ImportError:  # Windows
        pass
    if torch.cuda.is_initialized():
        now["gpu"] = torch.cuda.max_memory_allocated()
    return {kind: max(before.get(kind, 0), now.get(kind, 0)) for kind in before | now}
