"""The base of the displays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lightning_fed.callbacks.display.status import Status, Summary


class Display(ABC):
    """Base of the displays, which show the progress of a run. Errors must not end the run: see ``Running``."""

    follows: ClassVar[bool] = True
    """Whether the display shows the current round, and not only finished rounds."""

    @abstractmethod
    def is_due(self, now: float, done: int, total: int | None, between: bool) -> bool:
        """Whether to refresh now; called often, so it must be cheap.

        Args:
            now: The time, by ``time.monotonic``.
            done: The number of finished rounds, or batches of an evaluation.
            total: The total; None: unknown.
            between: Whether a round or batch has just ended, and not only a part of it.
        """

    @abstractmethod
    def show(self, status: Status, now: float) -> None:
        """Show a status, in place of the last one or below it.

        Args:
            status: The status.
            now: The time, by ``time.monotonic``.
        """

    def abandon(self) -> None:  # noqa: B027 - most displays change nothing
        """Restore the output's original state, and write nothing: it cannot be written to."""

    @abstractmethod
    def close(self, status: Status | None, summary: Summary | None) -> None:
        """Show the last status, and leave everything as it was found.

        Args:
            status: The last status; None: the output stays as it is.
            summary: The summary below the status; None: no summary.
        """
