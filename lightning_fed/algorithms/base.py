"""The extension point for algorithms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.errors import WorkerError
from lightning_fed.core.types import Job, Updates

Train: TypeAlias = Callable[[Job, Sequence[str]], Iterator[Updates | WorkerError]]
"""Trains some workers from a job and yields their updates: a stack of one or more workers at a time, or in place of a
worker that failed its error. Which engine does it is not the algorithm's business."""


class Algorithm(ABC):
    """What a round computes, apart from how a worker's own steps are executed."""

    divisible: ClassVar[bool] = True
    """Whether several processes may each train a part of the cohort. If not, one process trains all of it."""

    @abstractmethod
    def visit(self, train: Train, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        """Train the workers of a cohort and yield what comes back.

        Args:
            train: Trains workers; see :data:`Train`.
            job: The global model and how long each worker trains.
            cohort: The names of the workers, in order. Under several processes: of this process's workers.

        Yields:
            The updates with respect to ``job.parameters``, or the error of a worker that failed.
        """

    @abstractmethod
    def aggregator(self) -> Aggregator[Any]:
        """The aggregator that the algorithm's paper uses."""
