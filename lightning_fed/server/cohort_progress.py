"""Count of the workers of a round that are done, kept while the round runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final


@final
class CohortProgress:
    """The workers of the round at hand that have been trained, for progress bars; on each process its own.

    Engines report workers that have been trained, and the round reports updates that arrive: an engine that passes
    updates on in blocks is so counted worker by worker, and one that reports nothing block by block. Nothing is counted
    without a listener, nor in a run whose promise hides who takes part.

    Example::

        fed.cohort_progress.listener = lambda: print(fed.cohort_progress.done, "of", fed.cohort_progress.workers)
    """

    def __init__(self) -> None:
        self.listener: Callable[[], None] | None = None
        """Called whenever ``done`` has changed; set before a fit, or in ``Callback.on_train_start``."""
        self.workers = 0
        """The number of workers that this process trains in the round."""
        self.done = 0
        """The number of them that have been trained, or have failed."""
        self._trainings = 1
        self._arrived = 0
        self._trained = 0  # trainings since the last updates arrived
        self._hidden = True

    def __repr__(self) -> str:
        return f"CohortProgress({self.done} of {self.workers} workers)"

    def begin_fit(self, hidden: bool) -> Callable[[int], None] | None:
        """Begin a fit.

        Args:
            hidden: Whether nothing may be counted.

        Returns:
            What an engine is to call with a number of trainings each time that as many are over; None: nothing.
        """
        self._hidden = hidden
        self.workers = self.done = 0
        return None if hidden or self.listener is None else self.trained

    def begin(self, workers: int, trainings: int) -> None:
        """Begin a round.

        Args:
            workers: The number of its workers on this process.
            trainings: How often the algorithm trains each of them.
        """
        if self.listener is None or self._hidden:
            return
        self.workers, self._trainings = workers, max(trainings, 1)
        self.done = self._arrived = self._trained = 0

    def trained(self, trainings: int) -> None:
        """Count trainings that are over.

        Args:
            trainings: Their number.
        """
        self._trained += trainings
        self._report()

    def arrived(self, workers: int) -> None:
        """Count workers whose updates, or errors, have come in.

        Args:
            workers: Their number.
        """
        if self.listener is None or self._hidden:
            return
        self._arrived += workers
        self._trained = 0
        self._report()

    def _report(self) -> None:
        done = min(self._arrived + self._trained // self._trainings, self.workers)
        if done > self.done and self.listener is not None:
            self.done = done
            self.listener()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the listener: a copy of a module has no part in the progress bar of the first."""
        return {**self.__dict__, "listener": None}
