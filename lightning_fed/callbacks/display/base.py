"""The base of the displays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from lightning_fed.callbacks.display.status import Status, Summary


class Display(ABC):
    """Shows how far a run is. What goes wrong in showing it must not end the run: see :class:`Running`."""

    follows: ClassVar[bool] = True
    """Whether it shows the round at hand, and not only those that are over."""

    @abstractmethod
    def is_due(self, now: float, done: int, total: int | None, between: bool) -> bool:
        """Whether to show something now; asked often, so it takes no time.

        Args:
            now: The time, by ``time.monotonic``.
            done: How many rounds, or batches of an evaluation, are over.
            total: How many there will be; None: unknown.
            between: Whether one has just ended, and not only a part of it.
        """

    @abstractmethod
    def show(self, status: Status, now: float) -> None:
        """Show a status in place of the last one, or below it.

        Args:
            status: The status.
            now: The time, by ``time.monotonic``.
        """

    def abandon(self) -> None:  # noqa: B027 - most displays change nothing
        """Leave everything as it was found, and write nothing: it cannot be written to."""

    @abstractmethod
    def close(self, status: Status | None, summary: Summary | None) -> None:
        """Show the last status, and leave everything as it was found.

        Args:
            status: The last status; None: nothing more is to be shown than what is there.
            summary: What is said below it; None: nothing.
        """
