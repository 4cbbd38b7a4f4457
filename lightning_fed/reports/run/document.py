"""A report as plain data: sections of paragraphs, lists, tables, tiles and charts. Renderers turn it into a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, final

Cell: TypeAlias = "str | int | float | None"
"""A value in a table; renderers write numbers."""

Tone: TypeAlias = Literal["plain", "small", "warning"]


@final
@dataclass(frozen=True)
class Paragraph:
    """A paragraph of plain text.

    Args:
        text: The text; a renderer escapes it.
        label: The words in bold before it; empty: none.
        tone: ``"warning"``: in red; ``"small"``: a remark.
    """

    text: str
    label: str = ""
    tone: Tone = "plain"


@final
@dataclass(frozen=True)
class Bullets:
    """A list of sentences.

    Args:
        items: The sentences.
        label: The words in bold before it.
    """

    items: tuple[str, ...]
    label: str = ""


@final
@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        head: The names of the columns.
        rows: As many cells each.
        marked: The numbers of the rows that stand out.
        is_long: Whether it is set in small print, in two columns where there is room.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    marked: frozenset[int] = frozenset()
    is_long: bool = False


@final
@dataclass(frozen=True)
class Tile:
    """A number in large print.

    Args:
        label: What it is.
        value: As it is printed.
        tone: ``"warning"``: in red.
    """

    label: str
    value: str
    tone: Tone = "plain"


@final
@dataclass(frozen=True)
class Tiles:
    """A row of tiles.

    Args:
        tiles: The tiles.
    """

    tiles: tuple[Tile, ...]


@final
@dataclass(frozen=True)
class Line:
    """A curve.

    Args:
        name: Its name in the legend.
        points: Pairs of x and y, in the order of x.
        is_worst: Whether it is the curve of the worst workers.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    is_worst: bool = False


@final
@dataclass(frozen=True)
class Band:
    """An area between two curves.

    Args:
        name: Its name in the legend.
        points: Triples of x, low and high, in the order of x.
    """

    name: str
    points: tuple[tuple[float, float, float], ...]


@final
@dataclass(frozen=True)
class Chart:
    """Curves over rounds.

    Args:
        title: What is shown.
        x: The name of the x axis.
        y: The name of the y axis.
        lines: The curves.
        band: An area behind them.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    band: Band | None = None


@final
@dataclass(frozen=True)
class Bar:
    """A bar.

    Args:
        name: Whose it is.
        value: Its height.
        is_worst: Whether it is among the worst.
    """

    name: str
    value: float
    is_worst: bool = False


@final
@dataclass(frozen=True)
class Bars:
    """Bars beside each other.

    Args:
        title: What is shown.
        x: What a bar is.
        y: The name of the y axis.
        bars: From left to right.
        level: The height of a dashed line across; None: there is none.
    """

    title: str
    x: str
    y: str
    bars: tuple[Bar, ...]
    level: float | None = None


Block: TypeAlias = "Paragraph | Bullets | Table | Tiles | Chart | Bars"


@final
@dataclass(frozen=True)
class Section:
    """A section of a report.

    Args:
        title: Its heading; empty: it has none.
        blocks: What stands in it.
    """

    title: str
    blocks: tuple[Block, ...]


@final
@dataclass(frozen=True)
class Report:
    """A report of a run.

    Args:
        title: Its heading.
        subtitle: A line below it.
        sections: What stands in it.
    """

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def written(cell: Cell) -> str:
    """Write a cell.

    Args:
        cell: A number, a text, or None for nothing.

    >>> written(19240), written(0.90361), written(12345.678), written("bob"), written(None)
    ('19,240', '0.9036', '12,346', 'bob', '')
    """
    if cell is None:
        return ""
    if isinstance(cell, (bool, str)):
        return str(cell)
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.0f}" if 1e4 <= abs(cell) < 1e15 else f"{cell:.4g}"


def is_number(column: Sequence[Cell]) -> bool:
    """Whether a column of a table holds numbers only, and is set to the right.

    Args:
        column: Its cells.
    """
    there = [cell for cell in column if cell is not None]
    return bool(there) and all(isinstance(cell, (int, float)) and not isinstance(cell, bool) for cell in there)


def counted(number: int, what: str) -> str:
    """Write a number of things.

    Args:
        number: How many.
        what: One of them.

    >>> counted(1, "value"), counted(2000, "value")
    ('1 value', '2,000 values')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
