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
"""A reply: a stack of one or more workers' updates, or the error of a worker that failed."""

Train: TypeAlias = Callable[[Job, Sequence[str]], Iterator[Result]]
"""A function that trains workers locally from a job and yields replies. It runs where the workers are."""

Send: TypeAlias = Callable[[Job, Sequence[str]], Iterator[Result]]
"""A function that sends a job to workers and yields replies. It hides the engine from the algorithm."""


class Algorithm(Shown, ABC):
    """Base of the algorithms: the computation of a round, apart from the execution of local steps.

    Each method runs on one side. The server assigns the work, visits the workers, and concludes. :meth:`at_worker` runs
    at the workers, and has access to their job, their data and their own state only. An algorithm object holds only
    settings, which both sides have.
    """

    divisible: ClassVar[bool] = True
    """Whether several processes may each train a part of the cohort. If False, one process trains the whole cohort."""

    tables: ClassVar[tuple[str, ...]] = ()
    """The names of the tables of own state that the algorithm uses."""

    is_mean: ClassVar[bool] = True
    """Whether the server learns only a mean of updates (and ``extra``) in a round, in which workers may count equally.
    Only then can noise on that mean give a guarantee of privacy."""

    lies_in_its_mean: ClassVar[bool] = False
    """Whether the algorithm depends on its own aggregator; another aggregator is then refused."""

    trains_again: ClassVar[str | None] = None
    """Description of how a worker is trained more than once in a round, with an alternative; None: once only.
    A promise about examples counts one training in a round."""

    trainings: ClassVar[int] = 1
    """The number of times that :meth:`at_worker` trains a worker in a round."""

    weighs: ClassVar[bool] = False
    """Whether workers set their own weights in the mean; else the weight is the number of examples."""

    extra: ClassVar[tuple[str, ...]] = ()
    """The names of the vectors that workers send besides their updates."""

    @property
    def counts_examples(self) -> bool:
        """Whether the number of examples is a factor of a worker's weight; a node that hides it divides by it."""
        return True

    # ---- at the server, before the workers -------------------------------------------------------------------------

    def check(self, model: GlobalModel) -> None:
        """Refuse a model that the algorithm does not support; called before the first round.

        Args:
            model: The global model.

        Raises:
            ValueError: With the problem and its fix.
        """

    def assign(self, job: Job, server: Tensors) -> Job:
        """Add to the job what the algorithm sends besides the model, and return it.

        Args:
            job: The job so far.
            server: The server state, by name; read only.
        """
        return job

    def visit(self, send: Send, job: Job, cohort: Sequence[str]) -> Iterator[Result]:
        """Send the job to the workers of a cohort, in any order, and yield their replies.

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
        """Run the workers' part: train each worker, once or several times, and stage its own state.

        Every engine calls this method, with the workers that it trains at a time. No worker's result may depend on
        another worker.

        Args:
            train: Trains workers locally; see :data:`Train`.
            job: The job that the server sent.
            workers: The names of the workers.
            own: The workers' own state.

        Yields:
            The updates with respect to ``job.model``, or the error of a worker that failed; once for each worker.
        """
        yield from train(job, workers)

    def stays_local(self, model: GlobalModel) -> Collection[str]:
        """Return the names of the buffers that never leave the workers."""
        return ()

    def model_of(self, model: GlobalModel, worker: str, own: OwnTables) -> Model | None:
        """Return the model with which a worker is evaluated; the default is the global model.

        Args:
            model: The global model.
            worker: The worker's name.
            own: The workers' own state.
        """
        return None

    # ---- at the server, after the workers --------------------------------------------------------------------------

    @abstractmethod
    def aggregator(self) -> Aggregator[Any]:
        """Return the aggregator that the algorithm's paper uses."""

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        """Return the aggregate for the server optimizer; called on every process, only if an update arrived.

        Args:
            aggregate: The aggregate of the updates.
            job: The job that the workers were sent.
            server: The server state, by name; changed here only, by replacing tensors.
            replies: The denominator of the aggregate's mean.
        """
        return aggregate
