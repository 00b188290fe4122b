"""What is seen and kept of a run while it goes: a progress bar or lines, metrics.jsonl, TensorBoard events."""

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .checkpoint import write_bytes
from .evaluate import Score
from .schema import conform, parse, read_bytes

LINE_SECONDS = 10.0  # between lines where there is no terminal


class Log:
    """Collects scalars per step, writes their means about every hundredth of the run."""

    def __init__(
        self, folder: Path | None, *, steps: int, start: int, seconds: float, tasks: int, show: bool,
        on_log: Callable[[int, dict[str, float]], Any] | None = None,
    ):  # fmt: skip
        self.steps, self.start, self.before, self.tasks = steps, start, seconds, tasks
        self.every = max(1, min(100, steps // 200))
        self.began = self.shown = self.last = time.monotonic()
        self.rate = 0.0  # steps per second, lately
        self.pending: list[dict[str, Tensor]] = []
        self.on_log = on_log
        self.folder, self.show, self.bar, self.events, self.file = folder, show, None, None, None

    def __enter__(self) -> "Log":
        if self.folder is not None:
            self._open(self.folder)
        if self.show and sys.stderr.isatty():
            self._open_bar()
        return self

    def __exit__(self, *_) -> None:
        for thing in (self.file, self.events):
            if thing is not None:
                thing.close()
        if self.bar is not None:
            self.bar.stop()

    def seconds(self) -> float:
        """Time spent training, earlier parts of a resumed run included."""
        return self.before + time.monotonic() - self.began

    def due(self, step: int) -> bool:
        """Whether a line is written after that step."""
        return step % self.every == 0 or step == self.steps

    def step(self, step: int, scalars: dict[str, Tensor]) -> None:
        self.pending.append(scalars)
        if not self.due(step):
            return
        columns = {n: torch.stack([s[n] for s in self.pending]).tolist() for n in self.pending[-1]}
        means = {n: sum(values) / len(values) for n, values in columns.items()}
        now = time.monotonic()
        lately = len(self.pending) / max(now - self.last, 1e-9)
        self.rate = 0.8 * self.rate + 0.2 * lately if self.rate else lately
        self.pending, self.last = [], now
        self._write({"step": step, **means, "seconds": round(self.seconds(), 3)})
        shown = "  ".join(f"{n} {v:.4f}" for n, v in means.items())
        speed = f"{self.rate * self.tasks:.3g} tasks/s"
        if self.bar is not None:
            self.bar.update(self.bar_task, completed=step, text=f"{shown}  {speed}")
        elif self.show and (time.monotonic() - self.shown > LINE_SECONDS or step == self.steps):
            self.shown = time.monotonic()
            left = _clock((self.steps - step) / self.rate)
            print(f"step {step}/{self.steps}  {shown}  {speed}  {left} left", file=sys.stderr, flush=True)

    def forget(self, steps: int) -> None:
        """The last steps are done again."""
        self.pending = self.pending[: len(self.pending) - steps]

    def score(self, step: int, score: Score) -> None:
        self._write({"step": step, f"val_{score.metric}": score.mean, "val_ci95": score.ci95})
        line = f"step {step}/{self.steps}  validation {score}"
        if self.bar is not None:
            self.bar.console.print(line)
        elif self.show:
            print(line, file=sys.stderr, flush=True)

    def _write(self, line: dict[str, float]) -> None:
        if self.file is not None:
            try:
                self.file.write((json.dumps(line) + "\n").encode())
                if self.events is not None:
                    self.events.add(**line)  # type: ignore[arg-type]
            except OSError as error:
                kept = "The last checkpoint is whole."
                raise ValueError(f"cannot write to {self.folder}: {error.strerror}. {kept}") from None
        if self.on_log is not None:
            self.on_log(int(line["step"]), {name: value for name, value in line.items() if name != "step"})

    def _open(self, folder: Path) -> None:
        """Drop what a killed run logged after its last checkpoint, then append."""
        path = folder / "metrics.jsonl"
        kept = [line for line in read_metrics(folder) if line["step"] <= self.start]
        older = bool([*folder.glob("events.out.tfevents.*")])
        write_bytes(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        try:
            self.file = path.open("ab", buffering=0)  # a line that was logged survives the process
            if has_tensorboard():
                self.events = Events(folder, self.start, older)
            elif self.show:
                _say_once("No events for TensorBoard, which is not installed: pip install 'metaloop[tensorboard]'.")
        except OSError as error:
            raise ValueError(f"cannot write to {folder}: {error.strerror}.") from None

    def _open_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[text]}"))
        self.bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True))
        self.bar_task = self.bar.add_task("", total=self.steps, completed=self.start, text="")
        self.bar.start()


def has_tensorboard() -> bool:
    return find_spec("tensorboard") is not None


@cache
def _say_once(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Events:
    """TensorBoard's event file: the scalars of each logged step."""

    def __init__(self, folder: Path, start: int, older: bool):
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # type: ignore[attr-defined]
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[attr-defined]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        self._file = (folder / f"events.out.tfevents.{time.time():.6f}.{start}").open("ab", buffering=0)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if older:  # whose events of later steps do not count
            self._write(step=start + 1, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, **scalars: float) -> None:
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(step=step, summary=self._summary(value=values))

    def close(self) -> None:
        self._file.close()

    def _write(self, **content) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl: tables of numbers, each with its step. What else is there, such as a line
    that a kill cut short, is passed over. Raises ValueError if the file cannot be read."""
    path, lines = folder / "metrics.jsonl", []
    if not path.exists():
        return lines
    for text in read_bytes(path).split(b"\n"):
        with suppress(ValueError):
            line = conform(parse(text, "a line"), dict[str, float], "a line")
            conform(line, Line, "a line")
            lines.append(line)
    return lines


@dataclass
class Line:
    """What every line of metrics.jsonl has."""

    step: int


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"
