"""A line on a terminal that is redrawn in place."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO, final

from typing_extensions import override

from lightning_fed.callbacks.display.base import Display
from lightning_fed.callbacks.display.status import Status, Summary
from lightning_fed.callbacks.display.streams import Diversion
from lightning_fed.callbacks.display.text import columns, encodable, fitted

_USUAL = 80
_PATIENCE = 1.0
"""The seconds for which the line waits for the end of an unfinished line of other output."""


@final
class Terminal(Display):
    """Draws one line, without control sequences except for colours.

    Other output, warnings and log messages appear above the line. ``NO_COLOR`` is respected (https://no-color.org).

    Args:
        stream: The terminal.
        rate: The largest number of redraws in a second.
    """

    def __init__(self, stream: TextIO, rate: float) -> None:
        self._stream = stream
        self._interval = 1 / rate
        self._next = 0.0
        self._lock = threading.RLock()
        self._status: Status | None = None
        self._width = 0  # columns of the current line
        self._others_end = 0.0  # the time at which other output left a line unfinished; 0: none is
        self._diversion = Diversion(self)
        self._has_colours = not os.environ.get("NO_COLOR") and os.name != "nt"
        self._is_open = False

    @override
    def is_due(self, now: float, done: int, total: int | None, between: bool) -> bool:
        return now >= self._next

    @override
    def show(self, status: Status, now: float) -> None:
        self._next = now + self._interval
        if not self._is_open:
            self._is_open = True
            self._diversion.begin()
        with self._lock:
            self._status = status
            if self._others_end:
                if now - self._others_end < _PATIENCE:
                    return
                self._stream.write("\n")
                self._others_end = 0.0
            self._draw()

    @override
    def close(self, status: Status | None, summary: Summary | None) -> None:
        try:
            with self._lock:
                if self._others_end:
                    self._stream.write("\n")
                    self._others_end = 0.0
                if status is not None:
                    self._status = status
                    self._draw("\n")
                elif self._width:
                    self._stream.write("\n")
                self._width, self._status = 0, None
                if summary is not None:
                    self._stream.write(encodable(f"{summary.text}\n", self._stream.encoding))
                self._stream.flush()
        finally:
            self._is_open = False
            self._diversion.end()

    @override
    def abandon(self) -> None:
        self._is_open = False
        self._diversion.end()

    @contextmanager
    def giving_way(self, text: str) -> Iterator[None]:
        """Return a context in which other code writes a text."""
        if not text or not self._is_open:
            yield
            return
        with self._lock:
            self._erase()
            yield
            if text.endswith("\n"):
                self._others_end = 0.0
                self._draw()
            else:
                self._others_end = time.monotonic()

    def _erase(self) -> None:
        if self._width:
            self._stream.write(f"\r{' ' * self._width}\r")
            self._width = 0

    def _draw(self, end: str = "") -> None:
        if self._status is None:
            return
        width = _columns(self._stream) - 1  # in the last column some terminals begin a new line
        line = fitted(self._status, max(width, 1))
        plain = f"{line.before}{_bar(self._status, line.bar)}{line.after}"
        taken = columns(plain)
        text = encodable(plain, self._stream.encoding)
        if self._has_colours and line.bar and text == plain:
            text = f"{line.before}{_coloured(self._status, line.bar)}{line.after}"
        rest = " " * (min(self._width, width) - taken)
        self._stream.write(f"\r{text}{rest}{end}")
        self._stream.flush()
        self._width = max(taken, 0)


def _columns(stream: TextIO) -> int:
    """Return the width of a terminal; as everywhere, ``COLUMNS`` overrides it."""
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given) > 0:
        return int(given)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except OSError:
        return _USUAL


def _bar(status: Status, width: int) -> str:
    return "".join(_halves(status, width)).ljust(width)


def _coloured(status: Status, width: int) -> str:
    full, half = _halves(status, width)
    return f"\x1b[36m{full}{half}\x1b[90m{'━' * (width - len(full) - len(half))}\x1b[0m"


def _halves(status: Status, width: int) -> tuple[str, str]:
    steps = int(2 * width * min(max(status.fraction or 0.0, 0.0), 1.0) + 1e-9)
    return "━" * (steps // 2), "╸" * (steps % 2)
