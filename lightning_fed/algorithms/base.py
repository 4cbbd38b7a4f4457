"""The extension point for algorithms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.shown import Shown
from lightning_fed.core.tree import Tensors
from lightning_fed.state import OwnTables
from lightning_fed.wire import Aggregate, GlobalModel, Job, Model, Updates, WorkerError

Result: TypeAlias = Updates | WorkerError
"""What comes back: a stack of one or more workers' updates, or in place of a worker that failed its error."""

Train: TypeAlias = Callable[[Job, Sequence[str]], Iterator[Result]]
"""Trains some workers locally from a job, and yields what comes of it. It runs where the workers are."""

Send: TypeAlias = Callable[[Job, Sequence[str]], Iterator[Result]]
"""Sends a job to some workers, and yields what they send back. Which engine does it is not the algorithm's business."""


class Algorithm(Shown, ABC):
    """Rules by which a round computes, apart from how a worker's own steps are executed.

    Each method runs on one side. The server assigns the work, visits the workers, and concludes; :meth:`at_worker` runs
    at the workers, with nothing at hand but their job, their data and their own state. An algorithm itself holds only
    its settings, which both sides have.
    """

    divisible: ClassVar[bool] = True
    """Whether several processes may each train a part of the cohort. If not, one process trains all of it."""

    tables: ClassVar[tuple[str, ...]] = ()
    """The names of the tables of the workers' own state in which it keeps something for each worker."""

    is_mean: ClassVar[bool] = True
    """Whether all that the server learns in a round is a mean of updates (and ``extra``), in which workers may count
    equally. Only then can noise in that mean make it private."""

    lies_in_its_mean: ClassVar[bool] = False
    """Whether its aggregator is what it consists of, so that another one would undo it."""

    trains_again: ClassVar[str | None] = None
    """In words, how a worker is trained more than once in a round, and what to use in place of that; None: it is not.
    A promise about examples counts one training in a round."""

    trainings: ClassVar[int] = 1
    """How often :meth:`at_worker` trains a worker in a round."""

    weighs: ClassVar[bool] = False
    """Whether workers decide for what they count in the mean; else it is their number of examples."""

    extra: ClassVar[tuple[str, ...]] = ()
    """The names of what its workers send besides their updates."""

    @property
    def counts_examples(self) -> bool:
        """Whether a worker's weight has its number of examples as a factor, which a node that hides it divides out."""
        return True

    # ---- at the server, before the workers -------------------------------------------------------------------------

    def check(self, model: GlobalModel) -> None:
        """Refuse what the algorithm cannot work with; called before the first round.

        Args:
            model: The global model.

        Raises:
            ValueError: Saying what is wrong and what to do.
        """

    def assign(self, job: Job, server: Tensors) -> Job:
        """Return the job with what the algorithm sends besides the model.

        Args:
            job: The job so far.
            server: What the server remembers, by name; read only.
        """
        return job

    def visit(self, send: Send, job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        """Send the job to the workers of a cohort, in whatever order, and yield what comes back.

        Args:
            send: Sends a job to workers; see :data:`Send`.
            job: The job.
            cohort: The names of the workers, in order. Under several processes: of this process's workers.

        Yields:
            The updates with respect to ``job.model``, or the error of a worker that failed.
        """
        yield from send(job, cohort)

    # ---- at the workers --------------------------------------------------------------------------------------------

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        """Do the workers' part, for each of them by itself: train, once or several times, and keep own state.

        Called by every engine, with as many workers as it trains at a time; no worker's result may depend on another's.

        Args:
            train: Trains workers locally; see :data:`Train`.
            job: What the server sent.
            workers: The names of the workers.
            own: What the workers remember.

        Yields:
            The updates with respect to ``job.model``, or the error of a worker that failed; once for each worker.
        """
        yield from train(job, workers)

    def stays_local(self, model: GlobalModel) -> Collection[str]:
        """Return the names of the buffers that never leave the workers."""
        return ()

    def model_of(self, model: GlobalModel, worker: str, own: OwnTables) -> Model | None:
        """Return the model by which a worker is evaluated, if it is not the global one.

        Args:
            model: The global model.
            worker: The worker's name.
            own: What the workers remember.
        """
        return None

    # ---- at the server, after the workers --------------------------------------------------------------------------

    @abstractmethod
    def aggregator(self) -> Aggregator[Any]:
        """Return the aggregator that the algorithm's paper uses."""

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        """Return what goes to the server optimizer; called on every process, only if an update came in.

        Args:
            aggregate: The aggregate of the updates.
            job: The job that the workers were sent.
            server: What the server remembers, by name; to be changed here only, by putting new tensors in place of old.
            replies: The number of workers that the aggregate is the mean of.
        """
        return aggregate
