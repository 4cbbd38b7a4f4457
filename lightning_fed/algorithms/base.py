"""The extension point for algorithms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

from lightning_fed.aggregation import Aggregator
from lightning_fed.state.own_state import AlgorithmState
from lightning_fed.wire import Aggregate, Job, Model, Updates, WorkerError

Result: TypeAlias = Updates | WorkerError
"""What comes back: a stack of one or more workers' updates, or in place of a worker that failed its error."""

Train: TypeAlias = Callable[[Job, Sequence[str]], Iterator[Result]]
"""Trains some workers from a job and yields what comes back. Which engine does it is not the algorithm's business."""


class Algorithm(ABC):
    """What a round computes, apart from how a worker's own steps are executed.

    An algorithm itself holds only its settings. What it remembers from round to round lies in the state that it is
    given; what it wants of local training, it writes into the job.
    """

    divisible: ClassVar[bool] = True
    """Whether several processes may each train a part of the cohort. If not, one process trains all of it."""

    tables: ClassVar[tuple[str, ...]] = ()
    """The names of the tables of the state in which it keeps something for each worker."""

    is_mean: ClassVar[bool] = True
    """Whether all that the server learns in a round is a mean of updates (and ``extra``), in which workers may count
    equally. Only then can noise in that mean make it private."""

    extra: ClassVar[tuple[str, ...]] = ()
    """The names of what its workers send besides their updates."""

    def check(self, job: Job) -> None:  # noqa: B027 - most algorithms take every module
        """Refuse what the algorithm cannot work with; called before the first round.

        Args:
            job: With the global model.

        Raises:
            ValueError: Saying what is wrong and what to do.
        """

    @abstractmethod
    def visit(self, train: Train, job: Job, cohort: Sequence[str], state: AlgorithmState) -> Iterator[Result]:
        """Train the workers of a cohort and yield what comes back.

        Args:
            train: Trains workers; see :data:`Train`.
            job: The global model and how long each worker trains.
            cohort: The names of the workers, in order. Under several processes: of this process's workers.
            state: What is remembered; the server's part is read only here.

        Yields:
            The updates with respect to ``job.model.parameters``, or the error of a worker that failed.
        """

    def stays_local(self, job: Job) -> Collection[str]:
        """The names of the buffers that never leave the workers."""
        return ()

    @abstractmethod
    def aggregator(self) -> Aggregator[Any]:
        """The aggregator that the algorithm's paper uses."""

    def conclude(self, aggregate: Aggregate, job: Job, state: AlgorithmState, replies: float) -> Aggregate:
        """Do what is the server's before its optimizer steps; called on every process, only if an update came in.

        Args:
            aggregate: What the aggregator made of the updates.
            job: What was sent to the workers.
            state: What is remembered; the server's part may be changed.
            replies: The number of workers that the aggregate is the mean of.

        Returns:
            What goes to the server optimizer.
        """
        return aggregate

    def model_of(self, job: Job, worker: str, state: AlgorithmState) -> Model | None:
        """The model by which a worker is evaluated, if it is not the global one.

        Args:
            job: With the global model.
            worker: The worker's name.
            state: What is remembered.
        """
        return None
