"""Tables of text: for a terminal, and for a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns: the first to the left, numbers to the right.

    >>> aligned([["worker", "loss"], ["bob", "1.25"]])
    ['  worker  loss', '  bob     1.25']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    places = [str.ljust, *[str.rjust] * (len(widths) - 1)]
    lines = [[place(cell, w) for place, cell, w in zip(places, row, widths, strict=True)] for row in rows]
    return ["  " + "  ".join(line).rstrip() for line in lines]


def in_html(rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first row is its head; empty without rows.

    >>> in_html([["worker"], ["<bob>"]])
    '<table><tr><th>worker</th></tr><tr><td>&lt;bob&gt;</td></tr></table>'
    """
    if not rows:
        return ""
    kinds = ["th", *["td"] * (len(rows) - 1)]
    lines = ["".join(f"<{k}>{escape(cell)}</{k}>" for cell in row) for k, row in zip(kinds, rows, strict=True)]
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"
