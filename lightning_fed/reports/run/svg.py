"""Charts as SVG: a picture that needs no other file, no script and no library."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import NamedTuple, final

from lightning_fed.reports.run.document import Bars, Chart

_WIDTH, _HEIGHT = 460, 270
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 30, 44
_LETTER, _LEAST = 6.5, 2.0
"""Units of the picture: the width of a letter, and the height of a bar of 0."""
_PLAIN, _WORST, _REST = "#1f77b4", "#c62828", ("#1f77b4", "#2e7d32", "#6a1b9a", "#ef6c00")


@final
class _Axes(NamedTuple):
    """Places of values in the picture."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, value: float) -> float:
        return _LEFT + (value - self.low_x) / (self.high_x - self.low_x) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - self.low_y) / (self.high_y - self.low_y) * (_HEIGHT - _TOP - _BOTTOM)


def chart(figure: Chart) -> str:
    """Draw curves.

    Args:
        figure: The curves.
    """
    band = () if figure.band is None else figure.band.points
    xs = [x for line in figure.lines for x, _ in line.points] + [x for x, _, _ in band]
    ys = [y for line in figure.lines for _, y in line.points] + [y for _, *both in band for y in both]
    low_x, high_x = min(xs), max(max(xs), min(xs) + 1)
    ticks_x, ticks_y = ticks(low_x, high_x, whole=True), ticks(min(ys), max(ys))
    axes = _Axes(low_x, high_x, ticks_y[0], ticks_y[-1])
    parts = _frame(figure.title, figure.x, figure.y, axes, [(x, _short(x)) for x in ticks_x], ticks_y)
    legend = []
    if figure.band is not None and band:
        there = [(x, low) for x, low, _ in band] + [(x, high) for x, _, high in reversed(band)]
        parts.append(f'<polygon points="{_places(there, axes)}" fill="{_PLAIN}" fill-opacity="0.18"/>')
        legend.append((figure.band.name, _PLAIN, 0.3))
    for number, line in enumerate(figure.lines):
        color = _WORST if line.is_worst else _REST[number % len(_REST)]
        if len(line.points) == 1:
            ((x, y),) = line.points
            parts.append(f'<circle cx="{axes.x(x):.1f}" cy="{axes.y(y):.1f}" r="3" fill="{color}"/>')
        else:
            places = _places(line.points, axes)
            parts.append(f'<polyline points="{places}" fill="none" stroke="{color}" stroke-width="1.8"/>')
        legend.append((line.name, color, 1.0))
    return _picture(figure.title, [*parts, *_legend(legend)])


def bars(figure: Bars) -> str:
    """Draw bars.

    Args:
        figure: The bars.
    """
    values = [bar.value for bar in figure.bars] + ([] if figure.level is None else [figure.level])
    ticks_y = ticks(min(0.0, *values), max(0.0, *values))
    n = len(figure.bars)
    axes = _Axes(0, n, ticks_y[0], ticks_y[-1])
    every = max(1, math.ceil(n / 12))
    room = max(3, int((axes.x(every) - axes.x(0)) / _LETTER) - 1)
    common = _common([bar.name for bar in figure.bars])
    names = [(i + 0.5, _end_of(figure.bars[i].name.removeprefix(common), room)) for i in range(0, n, every)]
    x = f"{figure.x} ({common}…)" if common else figure.x
    parts = _frame(figure.title, x, figure.y, axes, names, ticks_y)
    for number, bar in enumerate(figure.bars):
        left, right = axes.x(number + 0.12), axes.x(number + 0.88)
        top, bottom = sorted((axes.y(bar.value), axes.y(0.0)))
        top = min(top, bottom - _LEAST)  # a bar of 0 is seen, and its colour
        parts.append(
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}" '
            f'fill="{_WORST if bar.is_worst else _PLAIN}"><title>{escape(bar.name)}: {bar.value:.4g}</title></rect>'
        )
    if figure.level is not None:
        y = axes.y(figure.level)
        ends = f'x1="{_LEFT}" y1="{y:.1f}" x2="{_WIDTH - _RIGHT}" y2="{y:.1f}"'
        parts.append(f'<line {ends} stroke="#222" stroke-dasharray="5 3"/>')
    return _picture(figure.title, parts)


def ticks(low: float, high: float, whole: bool = False) -> list[float]:
    """Return round numbers, about five, of which the first and the last lie around two numbers.

    Args:
        low: The smaller one.
        high: The larger one.
        whole: Whether only whole numbers between the two are taken.

    >>> ticks(0.28, 0.91)
    [0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(1, 3, whole=True)
    [1.0, 2.0, 3.0]
    """
    if high == low:
        low, high = low - (abs(low) / 2 or 0.5), high + (abs(high) / 2 or 0.5)
    rough = (high - low) / 4
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= rough * (1 - 1e-9))
    if whole:
        step = max(1.0, math.ceil(step))
        first, last = math.ceil(low / step), math.floor(high / step)
    else:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _frame(
    title: str, x: str, y: str, axes: _Axes, ticks_x: Sequence[tuple[float, str]], ticks_y: Sequence[float]
) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = [f'<text x="{_LEFT}" y="14" font-weight="bold">{escape(_cut(title, 60))}</text>']
    for value in ticks_y:
        place = axes.y(value)
        parts.append(f'<line x1="{_LEFT}" y1="{place:.1f}" x2="{right}" y2="{place:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{place + 4:.1f}" text-anchor="end">{_short(value)}</text>')
    for value, label in ticks_x:
        parts.append(f'<text x="{axes.x(value):.1f}" y="{bottom + 16}" text-anchor="middle">{escape(label)}</text>')
    parts.append(f'<line x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}" stroke="#444"/>')
    middle, height = (_LEFT + right) / 2, (_TOP + bottom) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">{escape(_cut(x, 60))}</text>')
    turned = f'x="13" y="{height}" text-anchor="middle" transform="rotate(-90 13 {height})"'
    parts.append(f"<text {turned}>{escape(_cut(y, 32))}</text>")
    return parts


def _legend(entries: Sequence[tuple[str, str, float]]) -> list[str]:
    parts, left = [], float(_LEFT)
    for name, color, opacity in entries:
        parts.append(f'<rect x="{left:.0f}" y="20" width="12" height="6" fill="{color}" fill-opacity="{opacity}"/>')
        parts.append(f'<text x="{left + 16:.0f}" y="27">{escape(_cut(name, 24))}</text>')
        left += 30 + 6.2 * len(_cut(name, 24))
    return parts


def _picture(title: str, parts: Sequence[str]) -> str:
    style = "font:11px system-ui,sans-serif;fill:#222;max-width:100%"
    head = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img" style="{style}"'
    return f'{head} aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _places(points: Sequence[tuple[float, float]], axes: _Axes) -> str:
    return " ".join(f"{axes.x(x):.1f},{axes.y(y):.1f}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:g}"


def _common(names: Sequence[str]) -> str:
    """Return what all of several names begin with, up to a character that is neither letter nor digit.

    >>> _common(["worker_10", "worker_12"]), _common(["bob", "bert"]), _common(["site 1"])
    ('worker_', '', '')
    """
    first, last = min(names), max(names)  # what these two have in common, all have
    pairs = enumerate(zip(first, last, strict=False))
    same = next((place for place, (one, other) in pairs if one != other), 0)
    found = re.match(r".*[\W_]", first[:same], re.DOTALL)
    return found.group() if found else ""


def _end_of(name: str, most: int) -> str:
    """Names of workers differ at their ends as a rule."""
    return name if len(name) <= most else "…" + name[1 - most :]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
