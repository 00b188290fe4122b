"""A run is a folder; this module finds out what is in one.

    run.json                   what is trained: recipe, options, seed, versions, machine; how, for resuming; the classes
    metrics.jsonl              one line per logged step
    checkpoint-*.safetensors   theta, the optimizer and the step (the two newest are kept)
    best.safetensors           theta at the step whose validation was best so far
    events.out.tfevents.*      the same metrics for TensorBoard
"""

import json
import math
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core import Learner, Theta
from ..torch_private import pytree
from . import checkpoint
from .identity import differences
from .lock import Lock
from .notebook import table
from .schema import conform, read_json
from .theta import opened

BEST = "best.safetensors"
WRITES = (BEST, "metrics.jsonl", "evaluation.json", "report.json", "report.html")  # besides what makes it a run


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
    def open(
        cls, folder: str | Path, learner: Learner, *, at_test: Learner | None = None, plan: Any = None,
        newest: bool = False,
    ) -> "Run":  # fmt: skip
        """The run in a folder, at the step whose validation was best, or, where there was none or if asked for, at its
        newest checkpoint; `learner` is the one it was trained with.

        Raises ValueError if the folder holds no run, or a damaged one, or one of another learner.
        """
        folder = Path(folder)
        info = read_info(folder)
        best = not newest and (folder / BEST).exists()
        path = folder / BEST if best else max(checkpoints(folder), default=None)
        if path is None:
            raise ValueError(f"{folder} has no checkpoint yet. Train on with --resume (resume=True).")
        try:
            tensors, _, kept = read_checkpoint(path)
        except ValueError as error:
            how = "Delete it: then the newest checkpoint is" if best else "Training with --resume goes on from"
            what = "taken." if best else "the checkpoint before it."
            raise ValueError(f"{error} {how} {what}") from None
        theta = opened(learner, learner.init(0), tensors, str(path))
        return cls(at_test or learner, theta, kept.step, folder, info, plan, kept.seconds, kept.memory)

    def _repr_html_(self) -> str:
        numbers = sum(t.numel() for t in pytree.tree_leaves(self.theta) if isinstance(t, Tensor))
        pool = self.info.get("pool") or {}
        rows = [
            ("recipe", self.info.get("recipe")), ("data", pool.get("name")), ("folder", self.folder),
            ("meta-steps", self.step), ("numbers in theta", f"{numbers:,}"),
            ("seconds of training", f"{self.seconds:.0f}"),
        ]  # fmt: skip
        return table("Run", rows)


@dataclass
class Machine:
    """What `machine` says."""

    cpu: str
    cores: int
    threads: int
    gpus: list[str]
    processes: int = 1
    waiting: str | None = None  # how OpenMP's threads wait, if that is set: "passive" or "active"


@dataclass
class Told:
    """What run.json says of any run, as far as it does. training: what decides the weights, which resuming compares.
    seen: digests of the classes that it was trained on."""

    seed: int | None = None
    versions: dict[str, str] | None = None
    machine: Machine | None = None
    training: dict[str, Any] | None = None
    where: dict[str, Any] | None = None
    seen: str | None = None


@dataclass
class Kept:
    """What every checkpoint says."""

    step: int
    seconds: float
    memory: dict[str, int]

    def __post_init__(self):
        if self.step < 0 or not (math.isfinite(self.seconds) and self.seconds >= 0):
            raise ValueError(f"it is of step {self.step}, after {self.seconds} seconds")
        if min(self.memory.values(), default=0) < 0:
            raise ValueError("its memory is negative")


def read_info(folder: Path) -> dict[str, Any]:
    """What run.json says. Raises ValueError if there is none, or one of another form."""
    path = folder / "run.json"
    if not path.exists():
        raise ValueError(f"{folder} holds no run (no run.json).")
    info = conform(read_json(path), dict[str, Any], str(path))
    conform(info, Told, str(path))
    return info


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any], Kept]:
    """A checkpoint's tensors, its meta, and what every meta has. Raises ValueError if it is damaged."""
    tensors, meta = checkpoint.read(path)
    kept = conform(meta, Kept, str(path))
    if path.stem not in (f"checkpoint-{kept.step:08d}", "best"):
        raise ValueError(f"{path} is damaged: it is of step {kept.step}.")
    return tensors, meta, kept


@dataclass
class Judged:
    """What best.safetensors says beside: how good its theta was in validation, and on what tasks that was."""

    metric: str
    mean: float
    ci95: float | None
    on: dict[str, Any]


def read_best(folder: Path) -> Judged | None:
    """How good the best theta of a run was; None if none is kept. Raises ValueError if the file is damaged."""
    path = folder / BEST
    return conform(read_checkpoint(path)[1].get("judged"), Judged, str(path), "judged") if path.exists() else None


_made: set[Path] = set()  # the runs that this process began


def prepare(
    folder: Path, resume: bool, info: dict[str, Any], *, longer: bool = False, seen: Callable[[], Any] = lambda: None
) -> dict[str, Any]:
    """Make the folder of a new run, or check that the one to be resumed was started in the same way.

    seen: the digests of the classes that it is trained on, or None; run.json keeps them as one word each.
    Whoever calls holds the folder's lock. longer: whether the run may go on to more steps than it was started for: not
    where a schedule depends on their number. What run.json does not say, as it did not before, is not compared;
    "where", the circumstances that change rounding alone, may differ, which is said.
    """
    if (folder / "run.json").exists() or checkpoints(folder):
        if not resume:
            raise ValueError(f"{folder} holds a run. Resume it (--resume, resume=True) or choose another folder.")
        recorded = read_info(folder)
        given = json.loads(json.dumps(info))
        if (recorded.get("versions") or {}).get("metaloop") != versions()["metaloop"]:
            given.get("training", {}).pop("learner", None)  # which another version may have written otherwise
        circumstances = differences(recorded.get("where") or {}, given.pop("where", {}))
        same(folder, recorded, given, longer=longer)
        if circumstances:
            others = ", ".join(f"{name}={now!r} ({was!r} before)" for name, was, now in circumstances)
            note = f"{folder} goes on with {others}: its weights are those of an unbroken run but for rounding."
            print(note, file=sys.stderr)
        if recorded.get("steps") != given.get("steps", recorded.get("steps")):
            recorded["steps"] = given["steps"]
            checkpoint.write_bytes(folder / "run.json", json.dumps(recorded, indent=2).encode())
    else:
        if others := [name for name in WRITES if (folder / name).exists()]:
            raise ValueError(
                f"{folder} holds no run, but {others[0]}, which one would overwrite. Choose another folder."
            )
        classes = seen()
        known = {} if classes is None else {"seen": " ".join(classes)}
        recorded = {**info, **known, "versions": versions(), "machine": machine()}
        checkpoint.write_bytes(folder / "run.json", json.dumps(recorded, indent=2).encode())
        _made.add(folder.resolve())
    for left in folder.glob(".*.tmp"):  # by a killed process
        left.unlink(missing_ok=True)
    return recorded


def same(folder: Path, recorded: dict[str, Any], given: dict[str, Any], *, longer: bool = False) -> None:
    """Raise ValueError where a run is to be resumed otherwise than it was started."""
    for name, was, now in differences(recorded, given):
        if not (name == "steps" and longer and isinstance(was, int) and was < now):
            shown = [text if len(text) <= 80 else f"{text[:77]}..." for text in map(repr, (was, now))]
            how = f"{folder} was started with {name.removeprefix('training.')}={shown[0]}, now it is {shown[1]}."
            raise ValueError(f"{how} Resume with the same, or choose another folder.")


def undo(folder: Path) -> None:
    """Take away a run that this process began, and of which nothing came: one without a checkpoint."""
    if folder.resolve() not in _made:
        return
    with suppress(ValueError), Lock(folder):  # not if another process goes on with it
        if not checkpoints(folder):
            _made.discard(folder.resolve())
            for name in ("run.json", BEST, "metrics.jsonl", "events.out.tfevents.*"):
                for path in folder.glob(name):
                    path.unlink()
    with suppress(OSError):  # something else is in it
        folder.rmdir()


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run folder, oldest first."""
    named = re.compile(r"checkpoint-\d{8,}\.safetensors")
    found = [path for path in folder.glob("checkpoint-*.safetensors") if named.fullmatch(path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint's name says."""
    return int(checkpoint.stem.partition("-")[2])


def appears(folder: Path, step: int, seconds: float = 3.0) -> bool:
    """Whether a checkpoint of that step or a later one is there, or is written by another process before long."""
    until = time.monotonic() + seconds
    while not any(path.stem >= f"checkpoint-{step:08d}" for path in checkpoints(folder)):
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


Found = tuple[Path, dict[str, Tensor], dict[str, Any]]


def newest_whole(folder: Path) -> Found | None:
    """The newest checkpoint that can be read, with its content; newer ones that are damaged are set aside.

    Raises ValueError if there are checkpoints and none is whole.
    """
    damaged = []
    for path in reversed(checkpoints(folder)):
        try:
            found = path, *read_checkpoint(path)[:2]
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
    waiting = os.environ.get("OMP_WAIT_POLICY", "").lower() or None
    return {"cpu": cpu, "cores": cores, "threads": torch.get_num_threads(), "gpus": gpus, "processes": processes,
            "waiting": waiting}  # fmt: skip


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
