"""The extension point for transforms."""

from __future__ import annotations

from abc import ABC, abstractmethod

from lightning_fed.wire import Aggregate, Updates


class UpdateTransform(ABC):
    """A step on each worker's update before it leaves, and its mirror image on the aggregate at the server.

    Several transforms run in their order at the workers and in reverse at the server.
    """

    @abstractmethod
    def worker(self, updates: Updates) -> Updates:
        """Transform the updates of n workers, each by itself: row i of the result depends on row i alone."""

    @abstractmethod
    def server(self, aggregate: Aggregate) -> Aggregate:
        """Transform the aggregate; called on every process with the same aggregate."""
