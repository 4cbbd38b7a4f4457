"""A report as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from lightning_fed.reports.run.document import (
    Bars,
    Block,
    Bullets,
    Cell,
    Chart,
    Paragraph,
    Report,
    Section,
    Tiles,
    is_number,
    written,
)

_MOST_POINTS = 12
_SPECIAL = re.compile(r"[\\`*\[\]<|~&$]|(?<!\w)_|_(?!\w)|^[#>+-]")


def as_markdown(report: Report) -> str:
    """Return a report as Markdown; curves are tables of some of their points.

    Args:
        report: The report.
    """
    parts = [f"# {safe(report.title)}", safe(report.subtitle), *map(_section, report.sections)]
    return "\n\n".join(part for part in parts if part) + "\n"


def safe(text: str) -> str:
    r"""Return a text that Markdown shows as it is, on one line.

    Args:
        text: The text.

    >>> print(safe("val_acc|b <i>_x_</i>"))
    val_acc\|b \<i>\_x\_\</i>
    """
    return _SPECIAL.sub(r"\\\g<0>", " ".join(text.split()))


def table(head: Sequence[str], rows: Iterable[Sequence[Cell]]) -> str:
    """Return a table.

    Args:
        head: The names of the columns.
        rows: Their cells.
    """
    rows = list(rows)
    columns = list(zip(*rows, strict=True)) or [()] * len(head)
    line = ["---:" if is_number(column) else "---" for column in columns]
    cells = [[safe(written(cell)) for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([safe(name) for name in head], line, *cells))


def _section(section: Section) -> str:
    parts = [f"## {safe(section.title)}"] if section.title else []
    return "\n\n".join([*parts, *(text for block in section.blocks if (text := _block(block)))])


def _block(block: Block) -> str:
    if isinstance(block, Paragraph):
        label = f"**{safe(block.label)}.** " if block.label else ""
        return f"{label}**{safe(block.text)}**" if block.tone == "warning" else f"{label}{safe(block.text)}"
    if isinstance(block, Bullets):
        label = f"**{safe(block.label)}.**\n\n" if block.label else ""
        return label + "\n".join(f"- {safe(item)}" for item in block.items)
    if isinstance(block, Tiles):
        return table(("", ""), [(tile.label, tile.value) for tile in block.tiles])
    if isinstance(block, Chart):
        return _points(block)
    if isinstance(block, Bars):
        return ""  # its numbers stand in the table of the workers
    return table(block.head, block.rows)


def _points(chart: Chart) -> str:
    """Some of the points, the first and the last among them."""
    at = sorted({x for line in chart.lines for x, _ in line.points})
    if len(at) > _MOST_POINTS:
        at = [at[round(i * (len(at) - 1) / (_MOST_POINTS - 1))] for i in range(_MOST_POINTS)]
    columns = [dict(line.points) for line in chart.lines]
    low = {} if chart.band is None else {x: low for x, low, _ in chart.band.points}
    high = {} if chart.band is None else {x: high for x, _, high in chart.band.points}
    head, shown = [chart.x, *(line.name for line in chart.lines)], [*columns]
    if chart.band is not None:
        head += [f"{chart.band.name}, low", f"{chart.band.name}, high"]
        shown += [low, high]
    rows = [[int(x) if x == int(x) else x, *(column.get(x) for column in shown)] for x in at]
    return f"{safe(chart.title)}:\n\n{table(head, rows)}"
