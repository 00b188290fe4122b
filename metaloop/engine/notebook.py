"""How things show themselves in a notebook: a small table in HTML, without a style of its own."""

from collections.abc import Iterable
from html import escape
from typing import Any


def table(title: str, rows: Iterable[tuple[str, Any]]) -> str:
    """A table of names and values, as a notebook's `_repr_html_` wants it. Names and values are text, never HTML."""
    cells = "".join(
        f"<tr><th scope='row' style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows if value is not None
    )  # fmt: skip
    return f"<table><caption>{escape(title)}</caption>{cells}</table>"
