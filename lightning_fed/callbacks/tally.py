"""Counts of a run: its progress, its pace, and its remaining time."""

from __future__ import annotations

from collections.abc import Callable
from typing import final


@final
class Tally:
    """Counts the rounds of a fit, or the batches or workers of an evaluation.

    Args:
        title: The counted unit.
        done: The number of units that are finished at the start: those before the checkpoint.
        total: The total number of units; None: unknown.
        now: The time, by ``time.monotonic``.
        time_left: Returns the seconds until a time limit ends the run; None: there is no limit.
    """

    def __init__(
        self,
        title: str,
        done: int,
        total: int | None,
        now: float,
        time_left: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.title = title
        self.first = self.done = done
        self.total = total
        self.part = 0.0
        """The finished share of the current unit."""
        self.is_at_hand = False
        """Whether a unit is in progress."""
        self.paused = 0.0
        """The seconds spent on other work."""
        self._time_left = time_left
        self._started = now
        self._first_ended: float | None = None

    def end_one(self, done: int, now: float) -> None:
        """Record the end of a unit.

        Args:
            done: The number of finished units.
            now: The time.
        """
        self.part, self.is_at_hand = 0.0, False
        if done > self.done:
            if self._first_ended is None:
                self._first_ended = now - self.paused
            self.done = done
            if self.total is not None:
                self.total = max(self.total, done)

    @property
    def number(self) -> int:
        """The number of the current unit; between units, the number of finished ones."""
        return self.done + 1 if self.is_at_hand and self.done != self.total else self.done

    def seconds(self, now: float) -> float:
        """Return the seconds of all units."""
        return now - self._started

    def pace(self, now: float) -> float | None:
        """Return the seconds of one unit, without other work; None: still unknown.

        The first unit, which includes setup and compilation, counts only while there are few others.
        """
        over, start = self.done - self.first + self.part, self._started
        if over >= 3 and self._first_ended is not None:
            over, start = over - 1, self._first_ended
        return (now - start - self.paused) / over if over > 0 else None

    def left(self, now: float, pause: float = 0.0) -> float | None:
        """Return the remaining seconds, with the share of other work; None: unknown.

        Args:
            now: The time.
            pause: The seconds of the current other work.
        """
        limit, pace, paused = self._time_left(), self.pace(now - pause), self.paused + pause
        if self.total is None or pace is None:
            return limit
        busy = self.seconds(now) - paused
        with_pauses = pace * (1 + paused / busy) if busy > 0 else pace
        left = max(self.total - self.done - self.part, 0.0) * with_pauses
        return left if limit is None else min(left, limit)

    def fraction(self, now: float) -> float | None:
        """Return the finished share of the whole; None: unknown."""
        if self.total:
            return (self.done + self.part) / self.total
        limit = self._time_left()
        whole = None if limit is None else self.seconds(now) + limit
        return None if not whole else self.seconds(now) / whole
