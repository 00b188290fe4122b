"""What the commands print: results on stdout, everything else on stderr."""

import codecs
import json
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..report.results import Entry


def scores(entries: "list[Entry]") -> None:
    from ..report.results import text

    rows = []
    for e in entries:
        published = "–" if e.published is None else text(e.published, e.published_ci95, e.metric)
        rows.append([e.label, e.metric, text(e.mean, e.ci95, e.metric), published])
    table(["", "", "ours ± ci95", "published"], rows)
    sure = []
    for e in entries:
        if c := e.calibration:
            error, chance = (f"{100 * n:.2f}" for n in (c.ece, c.ece_null_high))
            sure.append([e.label, text(c.information, c.nll_ci95, "nats"), f"{c.nll:.3f}", f"{c.brier:.3f}",
                         f"{error} (chance: up to {chance})"])  # fmt: skip
    if sure:
        table(["", "nats of its class", "NLL", "Brier", "calibration error, %"], sure)


def visible(text: str) -> str:
    """The text without what would move the cursor, change colours or end the line: names come from anywhere."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def say(line: str) -> None:
    """A line of results."""
    print(visible(line))


def tell(value: Any) -> None:
    """Results as JSON, which is all that is on stdout then."""
    print(json.dumps(value, indent=2))


def streams() -> None:
    """Let stdout and stderr take every sign: one that their encoding lacks is written otherwise, not raised. One that
    is closed takes everything, and forgets it."""
    codecs.register_error("metaloop", _otherwise)
    for name in ("stderr", "stdout"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
            if name == "stdout":
                note("metaloop: stdout is closed: what is printed there is lost")
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="metaloop")


def _otherwise(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    signs = {"±": "+-", "–": "-", "✓": "right", "✗": "wrong", "…": "..."}
    part = error.object[error.start : error.end]
    return "".join(signs.get(c) or c.encode("ascii", "backslashreplace").decode() for c in part), error.end


def table(head: list[str], rows: list[list[str]]) -> None:
    head, rows = [*map(visible, head)], [[*map(visible, row)] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def note(line: str, heir: bool = False) -> None:
    """Say it, unless this is one of many processes and neither the first nor its heir."""
    if heir or os.environ.get("RANK", "0") == "0":
        print(visible(line), file=sys.stderr, flush=True)


def launcher() -> str:
    """What stands before `metaloop` in the command that started this process."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return ""
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", 1))
    several = f"--nnodes {nodes} " if nodes > 1 else ""
    return f"torchrun {several}--nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', '1')} -m "


def suggest(*commands: str) -> None:
    sys.stdout.flush()
    for i, command in enumerate(commands):
        note(f"{'      ' if i else 'next: '}{command}")


def quoted(path: str | Path) -> str:
    return shlex.quote(str(path))
