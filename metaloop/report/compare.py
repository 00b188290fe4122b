"""Runs beside each other on the same tasks, as a picture."""

import base64
from collections.abc import Sequence
from html import escape
from io import BytesIO
from pathlib import Path

from ..engine import Score
from ..engine.checkpoint import write_bytes
from .page import shell, table
from .results import in_units


def write_plot(
    path: Path,
    names: Sequence[str],
    scores: Sequence[Score],
    gaps: Sequence[Score | None],
    *,
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
) -> None:
    """Scores and paired differences with their intervals: a PNG, or an HTML page with the table as well."""
    Figure = drawing()

    metric = in_units(scores[0])[2]
    figure = Figure(figsize=(9, 1.2 + 0.45 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, values, label in ((left, scores, metric), (right, gaps, f"difference to {names[0]}")):
        for i, value in enumerate(values):
            if value is not None:
                mean, ci95, _ = in_units(value)
                axes.errorbar(mean, i, xerr=ci95 or 0, fmt="o", color="#2563c4", capsize=3)
        axes.set_xlabel(f"{label}, ± 95 % interval", fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color="#dddddd", linewidth=0.7)
        axes.tick_params(length=0, labelsize=9)
    right.axvline(0, color="#555555", linewidth=0.8)
    left.set_yticks(range(len(names)), names)
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_title(title, fontsize=10, loc="left")
    for written in figure.findobj(lambda part: hasattr(part, "set_parse_math")):
        written.set_parse_math(False)  # names are names, dollars or not
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    image = buffer.getvalue()
    if path.suffix == ".html":
        picture = f'<img alt="scores and differences" style="width:100%" src="data:image/png;base64,{_text(image)}">'
        image = shell(title, f"<h1>{escape(title)}</h1>{table(head, rows)}{picture}").encode()
    write_bytes(path, image)


def drawing() -> type:
    """matplotlib's Figure, or one line on how to get it."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise ValueError("compare: matplotlib, which draws, is not installed: pip install 'metaloop[plot]'.") from None
    return Figure


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
