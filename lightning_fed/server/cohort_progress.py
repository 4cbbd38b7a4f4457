"""Count of the finished workers of a round, kept while the round runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final


@final
class CohortProgress:
    """Count of the current round's trained workers, for progress bars; one on each process.

    Engines report trained workers, and the round reports arrived updates. An engine that passes updates on in blocks is
    therefore counted worker by worker, and an engine that reports nothing block by block. Nothing is counted without a
    listener, nor in a run whose promise hides who takes part.

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
            A function that an engine calls with the number of newly finished trainings; None: nothing is counted.
        """
        self._hidden = hidden
        self.workers = self.done = 0
        return None if hidden or self.listener is None else self.trained

    def begin(self, workers: int, trainings: int) -> None:
        """Begin a round.

        Args:
            workers: The number of its workers on this process.
            trainings: The number of trainings of each in the algorithm.
        """
        if self.listener is None or self._hidden:
            return
        self.workers, self._trainings = workers, max(trainings, 1)
        self.done = self._arrived = self._trained = 0

    def trained(self, trainings: int) -> None:
        """Count finished trainings.

        Args:
            trainings: Their number.
        """
        self._trained += trainings
        self._report()

    def arrived(self, workers: int) -> None:
        """Count workers whose updates, or errors, have arrived.

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
        """Leave out the listener: a copy of a module does not report to the progress bar of the original."""
        return {**self.__dict__, "listener": None}
