"""Counts of a run: how far it is, how fast it goes, and how long it will take."""

from __future__ import annotations

from collections.abc import Callable
from typing import final


@final
class Tally:
    """Counts the rounds of a fit, or the batches or workers of an evaluation.

    Args:
        title: What is counted.
        done: How many are over at the start: those before the checkpoint.
        total: How many there will be in all; None: unknown.
        now: The time, by ``time.monotonic``.
        time_left: Returns the seconds after which the run ends, whatever is done by then; None: there is no limit.
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
        """The share of the one at hand that is over."""
        self.is_at_hand = False
        """Whether one is at hand."""
        self.paused = 0.0
        """Seconds in which something else was done."""
        self._time_left = time_left
        self._started = now
        self._first_ended: float | None = None

    def end_one(self, done: int, now: float) -> None:
        """Note that one is over.

        Args:
            done: How many are over now.
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
        """The number of the one at hand; if none is, how many are over."""
        return self.done + 1 if self.is_at_hand and self.done != self.total else self.done

    def seconds(self, now: float) -> float:
        """Return how long all have taken."""
        return now - self._started

    def pace(self, now: float) -> float | None:
        """Return the seconds that one takes, without what else was done; None: unknown as yet.

        The first, in which much is set up and compiled, counts as long as there are few others.
        """
        over, start = self.done - self.first + self.part, self._started
        if over >= 3 and self._first_ended is not None:
            over, start = over - 1, self._first_ended
        return (now - start - self.paused) / over if over > 0 else None

    def left(self, now: float, pause: float = 0.0) -> float | None:
        """Return the seconds that are left, with the share of what else is done; None: unknown.

        Args:
            now: The time.
            pause: For how many seconds something else has been done now.
        """
        limit, pace, paused = self._time_left(), self.pace(now - pause), self.paused + pause
        if self.total is None or pace is None:
            return limit
        busy = self.seconds(now) - paused
        with_pauses = pace * (1 + paused / busy) if busy > 0 else pace
        left = max(self.total - self.done - self.part, 0.0) * with_pauses
        return left if limit is None else min(left, limit)

    def fraction(self, now: float) -> float | None:
        """Return the share of the whole that is over; None: unknown."""
        if self.total:
            return (self.done + self.part) / self.total
        limit = self._time_left()
        whole = None if limit is None else self.seconds(now) + limit
        return None if not whole else self.seconds(now) / whole
