"""What is seen and kept of a run while it goes: a progress bar or lines, metrics.jsonl, TensorBoard events."""

import json
import sys
import time
from pathlib import Path

from torch import Tensor

from .evaluate import Score

LINE_SECONDS = 10.0  # between lines where there is no terminal


class Log:
    """Collects scalars per step, writes their means about every hundredth of the run."""

    def __init__(
        self, folder: Path | None, *, steps: int, start: int, seconds: float, tasks: int, show: bool
    ):
        self.steps, self.start, self.before, self.tasks = steps, start, seconds, tasks
        self.every = max(1, min(100, steps // 200))
        self.began = self.shown = time.monotonic()
        self.pending: list[dict[str, Tensor]] = []
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

    def step(self, step: int, scalars: dict[str, Tensor]) -> None:
        self.pending.append(scalars)
        if step % self.every and step != self.steps:
            return
        means = {n: sum(s[n].item() for s in self.pending) / len(self.pending) for n in self.pending[-1]}
        self.pending = []
        done = step - self.start
        rate = done / max(time.monotonic() - self.began, 1e-9)
        self._write({"step": step, **means, "seconds": round(self.seconds(), 3)})
        shown = "  ".join(f"{n} {v:.4f}" for n, v in means.items())
        speed = f"{rate * self.tasks:.0f} tasks/s"
        if self.bar is not None:
            self.bar.update(self.bar_task, completed=step, text=f"{shown}  {speed}")
        elif self.show and (time.monotonic() - self.shown > LINE_SECONDS or step == self.steps):
            self.shown = time.monotonic()
            left = _clock((self.steps - step) / rate)
            print(f"step {step}/{self.steps}  {shown}  {speed}  {left} left", file=sys.stderr, flush=True)

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
                self.file.write(json.dumps(line) + "\n")
                self.file.flush()
            except OSError as error:
                raise ValueError(f"cannot write {self.file.name}: {error.strerror}. The checkpoints are whole.") from None
        if self.events is not None:
            for name, value in line.items():
                if name != "step":
                    self.events.add_scalar(name, value, line["step"])

    def _open(self, folder: Path) -> None:
        """Drop what a killed run logged after its last checkpoint, then append."""
        path = folder / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if line["step"] <= self.start]
        self.file = path.open("w")
        self.file.writelines(json.dumps(line) + "\n" for line in kept)
        self.file.flush()
        from torch.utils.tensorboard import SummaryWriter

        self.events = SummaryWriter(str(folder), purge_step=self.start or None)

    def _open_bar(self) -> None:
        from rich import progress
        from rich.console import Console

        columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[text]}"))
        self.bar = progress.Progress(*columns, progress.TimeRemainingColumn(), console=Console(stderr=True))
        self.bar_task = self.bar.add_task("", total=self.steps, completed=self.start, text="")
        self.bar.start()


def _whole_lines(path: Path) -> list[dict[str, float]]:
    lines = []
    for text in path.read_text().splitlines() if path.exists() else []:
        try:
            lines.append(json.loads(text))
        except ValueError:
            break  # cut short by a kill
    return lines


def _clock(seconds: float) -> str:
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{s:02d}" if hours else f"{minutes}:{s:02d}"
