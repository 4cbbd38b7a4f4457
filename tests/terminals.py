"""A terminal in this process: what is written to it is read back."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class FakeTerminal:
    """A pseudo-terminal with standard output and standard error at its other end.

    Args:
        columns: Its width.
        encoding: That of the streams.
    """

    def __init__(self, columns: int = 140, encoding: str = "utf-8") -> None:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self._master = master
        self._read = bytearray()
        self.stdout = os.fdopen(os.dup(slave), "w", encoding=encoding, buffering=1)
        self.stderr = os.fdopen(slave, "w", encoding=encoding, buffering=1)
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def _pump(self) -> None:
        while True:
            try:
                self._read += os.read(self._master, 65536)
            except OSError:  # the other end is closed
                return

    def close(self) -> str:
        """Close it, and return all that was written."""
        self.stdout.close()
        self.stderr.close()
        self._thread.join(10)
        os.close(self._master)
        return self._read.decode()


@contextmanager
def terminal(**options: Any) -> Iterator[list[str]]:
    """Context in which standard output and error are a terminal; its list then has all that was written."""
    made, before, written = FakeTerminal(**options), (sys.stdout, sys.stderr), []
    sys.stdout, sys.stderr = made.stdout, made.stderr
    try:
        yield written
    finally:
        assert (sys.stdout, sys.stderr) == (made.stdout, made.stderr), "the streams were not put back"
        sys.stdout, sys.stderr = before
        written.append(made.close())


def screen(written: str, columns: int = 140) -> list[str]:
    """Return the lines that stand on the screen in the end, as a terminal shows them."""
    lines, column = [""], 0
    text = _without_colours(written)
    for sign in text:
        if sign == "\n":
            lines.append("")
        elif sign == "\r":
            column = 0
        else:
            assert sign.isprintable(), f"the control character {sign!r}"
            assert column < columns, f"beyond the last column: {lines[-1]}"
            lines[-1] = lines[-1][:column].ljust(column) + sign + lines[-1][column + 1 :]
            column += 1
        column = 0 if sign == "\n" else column
    return [line.rstrip() for line in lines]


def frames(written: str) -> list[str]:
    """Return each thing that was drawn or printed, in order."""
    return [part.strip() for part in _without_colours(written).replace("\n", "\r").split("\r") if part.strip()]


def _without_colours(written: str) -> str:
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", written)
