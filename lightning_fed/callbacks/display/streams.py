"""Standard streams that print other output above the line of progress."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, TextIO, final


class Place(Protocol):
    """The owner of a line that makes room for other output."""

    def giving_way(self, text: str) -> AbstractContextManager[None]:
        """Return a context in which other code writes a text."""


@final
class Diverted:
    """A standard stream that clears the line before each text, and otherwise delegates to the stream.

    Args:
        stream: The stream.
        place: The owner of the line.
    """

    def __init__(self, stream: TextIO, place: Place) -> None:
        self._stream = stream
        self._place = place
        self._process = os.getpid()

    def write(self, text: str) -> int:
        """Write a text above the line."""
        if os.getpid() != self._process:  # a forked process, such as a loader's, has no line
            return self._stream.write(text)
        with self._place.giving_way(text):
            return self._stream.write(text)

    def writelines(self, lines: Any) -> None:
        """Write texts above the line."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@final
class Diversion:
    """Replaces the streams of the terminal by diverted streams, and restores them.

    Handlers of loggers, which hold the stream of their creation, are diverted, too.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._diverted: dict[str, Diverted] = {}

    def begin(self) -> None:
        """Divert the streams."""
        for name in ("stdout", "stderr"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                diverted = Diverted(stream, self._place)
                self._diverted[name] = diverted
                setattr(sys, name, diverted)
                _hand_over(stream, diverted)

    def end(self) -> None:
        """Restore the streams, unless other code has replaced them since."""
        for name, diverted in self._diverted.items():
            if getattr(sys, name) is diverted:
                setattr(sys, name, diverted._stream)
            _hand_over(diverted, diverted._stream)
        self._diverted = {}


def _hand_over(before: Any, after: Any) -> None:
    for handler in _handlers():
        if handler.stream is before:
            handler.setStream(after)


def _handlers() -> Iterator[logging.StreamHandler[Any]]:
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in loggers:
        if isinstance(logger, logging.Logger):
            yield from (handler for handler in logger.handlers if isinstance(handler, logging.StreamHandler))
