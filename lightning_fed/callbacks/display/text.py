"""The line of a status: its parts, as many as fit, and numbers and durations in few characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import NamedTuple, final

from lightning_fed.callbacks.display.status import Status

SEPARATOR = " · "
_LONGEST_BAR = 20
_SHORTEST_BAR = 5
_ASCII = str.maketrans({"━": "=", "╸": "-", "·": "|", "ε": "eps", "–": "-"})


@final
class Part(NamedTuple):
    """A part of the line.

    Args:
        importance: The rank of the part; parts of larger rank are dropped first when there is no room.
        forms: Its forms, the longest first.
    """

    importance: int
    forms: tuple[str, ...]


@final
class Line(NamedTuple):
    """A line that fits.

    Args:
        before: The text before the bar.
        bar: The number of columns of the bar; 0: no bar.
        after: The text after the bar.
    """

    before: str
    bar: int
    after: str


def number(value: float) -> str:
    """Return a number with three digits.

    >>> [number(value) for value in (0.34159, 0.91, 2.0, 1234.6, 1e-5, float("nan"))]
    ['0.342', '0.91', '2', '1235', '1e-05', 'nan']
    """
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """Return a duration as text, in one or two customary units.

    >>> [duration(seconds) for seconds in (0.0042, 2.13, 59.9, 90, 300, 5000, 200_000)]
    ['4 ms', '2.1 s', '60 s', '90 s', '5 min', '1 h 23 min', '2 d 7 h']
    """
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def printable(text: str) -> str:
    """Return a text without line breaks and control characters, which a metric's name may have.

    >>> printable("loss" + chr(27) + "[31m")
    'loss?[31m'
    """
    return text if text.isprintable() else "".join(sign if sign.isprintable() else "?" for sign in text)


def encodable(text: str, encoding: str | None) -> str:
    """Return a text with replacements for the characters that an encoding lacks.

    Args:
        text: The text.
        encoding: The encoding of the stream; None: any.

    >>> encodable("loss 0.3 · ε 2.1", "ascii")
    'loss 0.3 | eps 2.1'
    """
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding or "utf-8", "replace").decode(encoding or "utf-8")
    return text


def columns(text: str) -> int:
    """Return the number of terminal columns of a text.

    >>> columns("loss"), columns("損失")
    (4, 4)
    """
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)


def cut(text: str, width: int) -> str:
    """Return the beginning of a text that takes at most so many columns."""
    while columns(text) > width:
        text = text[:-1]
    return text


def head(status: Status) -> str:
    """Return the part that is always there."""
    return f"{status.title} {status.done}" + ("" if status.total is None else f"/{status.total}")


def percent(status: Status) -> str:
    """Return the finished share as text; empty if it is unknown."""
    return "" if status.fraction is None else f"{int(100 * min(max(status.fraction, 0.0), 1.0) + 1e-9)} %"


def parts(status: Status) -> Iterator[Part]:
    """Yield the parts after the bar, in order."""
    if status.cohort:
        yield Part(1, (f"cohort {status.cohort}",))
    if status.within:
        yield Part(0, (status.within,))
    if status.pace is not None:
        yield Part(6, (f"{duration(status.pace)}/{status.title}",))
    if status.left is not None:
        yield Part(2, (f"{duration(status.left)} left",))
    for place, (name, value) in enumerate(status.values.items()):
        short = f"{printable(name)} {printable(value)}"
        aside = status.asides.get(name)
        yield Part(3 if place == 0 else 4 + 2 * place, (short,) if aside is None else (f"{short} ({aside})", short))
    if status.epsilon:
        yield Part(4, (f"ε {status.epsilon}",))


def whole_line(status: Status) -> str:
    """Return the complete line, for output without a limit of width."""
    texts = [head(status), percent(status), *(part.forms[0] for part in parts(status))]
    return SEPARATOR.join(text for text in texts if text)


def fitted(status: Status, width: int) -> Line:
    """Return the line that fits a width: the least important parts are left out, and brackets before whole parts.

    Args:
        status: The status.
        width: The largest number of columns.
    """
    before, share = head(status), percent(status)
    taken = columns(before)
    has_bar = bool(share) and taken + 1 + _SHORTEST_BAR + 1 + columns(share) <= width
    if has_bar:
        taken += 1 + _SHORTEST_BAR + 1 + columns(share)
    every = list(parts(status))
    chosen: dict[int, str] = {}
    by_importance = sorted(range(len(every)), key=lambda place: every[place].importance)
    for place in by_importance:
        short = every[place].forms[-1]
        if taken + len(SEPARATOR) + columns(short) <= width:
            chosen[place] = short
            taken += len(SEPARATOR) + columns(short)
    for place in by_importance:
        if place in chosen:
            longer = columns(every[place].forms[0]) - columns(chosen[place])
            if taken + longer <= width:
                chosen[place] = every[place].forms[0]
                taken += longer
    after = SEPARATOR.join([share] * has_bar + [chosen[place] for place in sorted(chosen)])
    if has_bar:
        return Line(f"{before} ", min(_SHORTEST_BAR + width - taken, _LONGEST_BAR), f" {after}")
    return Line(cut(f"{before}{SEPARATOR}{after}" if after else before, width), 0, "")
