"""The extension point for transforms."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_fed.core.shown import Shown
from lightning_fed.state import OwnTables
from lightning_fed.wire import Aggregate, Job, Updates


class UpdateTransform(Shown, ABC):
    """Base of the transforms: a step on each worker's update before it leaves, and its mirror image at the server.

    Several transforms run in their order at the workers, and in reverse order on the aggregate at the server.
    """

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables of own state that the transform uses, for instance for error feedback."""
        return ()

    @abstractmethod
    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        """Transform the updates of n workers, each by itself.

        Row i of the result must be a function of row i, of worker i's own state, and of ``(job.seed, job.cohort, name
        of worker i)``, from which all randomness is derived (``core.rng.derive``): an engine may
        pass one worker at a time or many, in any order, and in another process.

        Args:
            updates: The updates; read only.
            job: The job that the server sent.
            own: The workers' own state, in :attr:`tables`.
        """

    @abstractmethod
    def server(self, aggregate: Aggregate) -> Aggregate:
        """Transform the aggregate; called on every process with the same aggregate."""
