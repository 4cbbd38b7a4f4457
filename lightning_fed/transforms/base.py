"""The extension point for transforms."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_fed.core.shown import Shown
from lightning_fed.state import OwnTables
from lightning_fed.wire import Aggregate, Job, Updates


class UpdateTransform(Shown, ABC):
    """A step on each worker's update before it leaves, and its mirror image on the aggregate at the server.

    Several transforms run in their order at the workers and in reverse at the server.
    """

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables in which it keeps something for each worker, such as the error that it feeds back."""
        return ()

    @abstractmethod
    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        """Transform the updates of n workers, each by itself.

        Row i of the result is a function of row i, of what worker i remembers, and of ``(job.seed, job.cohort, name of
        worker i)``, from which all randomness is to be derived (:func:`~lightning_fed.core.rng.derive`): an engine may
        ask for one worker at a time or for many, in any order, and in another process.

        Args:
            updates: The updates; not to be written to.
            job: What the server sent.
            own: What the workers remember, in :attr:`tables`.
        """

    @abstractmethod
    def server(self, aggregate: Aggregate) -> Aggregate:
        """Transform the aggregate; called on every process with the same aggregate."""
