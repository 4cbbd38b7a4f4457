"""A few lines of progress for output without a terminal: a file, the log of a job."""

from __future__ import annotations

import sys
from typing import ClassVar, final

from typing_extensions import override

from lightning_fed.callbacks.display.base import Display
from lightning_fed.callbacks.display.status import Status, Summary
from lightning_fed.callbacks.display.text import encodable, whole_line

_SECONDS = 30.0
_SHARE = 0.05


@final
class Lines(Display):
    """Prints a line at the first round, and another whenever 30 seconds and 5 % of the rounds have passed.

    If the number of rounds is unknown, 5 % of the finished rounds count, so a run of days also has few lines.

    Args:
        begun: The start of the run, by ``time.monotonic``, if the first line must wait as long as any other.
    """

    follows: ClassVar[bool] = False

    def __init__(self, begun: float | None = None) -> None:
        self._last = None if begun is None else (begun, 0)

    @override
    def is_due(self, now: float, done: int, total: int | None, between: bool) -> bool:
        if not between:
            return False
        if self._last is None:
            return True
        time, place = self._last
        return now - time >= _SECONDS and done - place >= _SHARE * (total or done)

    @override
    def show(self, status: Status, now: float) -> None:
        self._last = now, status.done
        self._print(whole_line(status))

    @override
    def close(self, status: Status | None, summary: Summary | None) -> None:
        if status is not None and (summary is None or self._last is None):
            self._print(whole_line(status))
        if summary is not None:
            self._print(summary.text)

    def _print(self, text: str) -> None:
        if sys.stdout is not None:
            print(encodable(text, getattr(sys.stdout, "encoding", None)), flush=True)
