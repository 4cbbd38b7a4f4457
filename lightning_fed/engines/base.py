"""The extension point for engines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from lightning_fed._lightning import pl
from lightning_fed.core.shown import Shown
from lightning_fed.population import EvaluationKind, WorkerPool
from lightning_fed.wire import Job, Updates, WorkerError
from lightning_fed.wire.container import Buffer
from lightning_fed.worker.outbox import Outbox

if TYPE_CHECKING:  # they need an extra
    from lightning_fed.secure.server import SecureServer
    from lightning_fed.secure.session import Machines


@final
@dataclass(frozen=True)
class RunFacts:
    """Facts about a run that is about to begin, for engines whose nodes agree to it beforehand.

    Args:
        seed: The seed of the run.
        cohort_size: The number of workers in a round.
        least_workers: The number of workers below which a round fails.
        sampling: The kind of sampler that chooses cohorts; None: everyone takes part.
        simulates: What is simulated that only happens by itself on real machines, such as the absence of workers;
            None: nothing.
    """

    seed: int = 0
    cohort_size: int = 1
    least_workers: int = 1
    sampling: str | None = None
    simulates: str | None = None


class Engine(Shown, ABC):
    """Trains workers. What comes back depends on the job, the workers and their data, not on the engine."""

    def limit(self, seconds: float | None) -> None:
        """Set how long one worker may train in one round; called before each ``setup``, and at the very start.

        Args:
            seconds: The seconds from when its work begins, and not from when it waits for its turn; None: no limit.

        Raises:
            ValueError: If workers train in this very process, where one that hangs cannot be ended.
        """
        if seconds is not None:
            raise ValueError(
                f"worker_timeout={seconds:g}: {type(self).__name__} trains workers in this process, and cannot end one "
                'that hangs; take engine="isolated"'
            )

    _listener: Callable[[int], None] | None = None

    def report_to(self, listener: Callable[[int], None] | None) -> None:
        """Set the listener to workers' trainings in the middle of a round; called before each ``setup``.

        Args:
            listener: Called with a number of trainings each time that as many are over; None: no listener.
        """
        self._listener = listener

    def has_trained(self, trainings: int) -> None:
        """Report that local trainings are over; for engines that yield many workers at a time.

        Workers are counted anyway, as they come out of ``run``, so an engine need not call this.

        Args:
            trainings: Their number; an algorithm may train each worker several times (``Algorithm.trainings``).
        """
        if self._listener is not None:
            self._listener(trainings)

    @abstractmethod
    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        """Get ready for a fit: called once, after the module has been placed and before the first round.

        Args:
            module: The user's module, to be copied; the engine must not train this one.
            workers: The workers' data.
            trainer: For its device and precision, and for what the user's own code reads from ``self.trainer``.
            outbox: The steps between local training and what ``run`` yields; FedAvg's by default, which are none
                but the finite check.

        Raises:
            ValueError: If the module cannot be trained locally; the message names the reason and the fix.
        """

    @abstractmethod
    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        """Train some workers, each from ``job.model``, and yield the updates that come out of the outbox.

        An engine writes a ``train(job, workers)`` that yields the bare updates, and ``run`` is then
        ``yield from outbox(train, job, cohort)``: an algorithm may train a worker several times. An exception that is
        raised in place of a yielded :class:`~lightning_fed.wire.WorkerError` ends the run.

        Args:
            job: The server's job; its tensors must not be written to.
            cohort: The names of the workers.

        Yields:
            Stacks of updates of one or more workers, in any order, on the module's device and in its dtypes, which must
            not be written to by the engine afterwards; in place of a worker that failed, its error.
        """

    def refuse(self, worker: str, cohort: int) -> None:
        """Note that a worker's update does not count in its round; for engines whose workers' own state lies elsewhere.

        Args:
            worker: Its name.
            cohort: The number of the round's cohort.
        """

    @abstractmethod
    def teardown(self) -> None:
        """Release everything that ``setup`` made."""

    @property
    def choice(self) -> str | None:
        """The engine's decision about how to run, for the checkpoint; None if there was nothing to decide."""
        return None

    def resume(self, choice: str) -> None:
        """Take over the decision of the run that wrote the checkpoint; called before ``setup``.

        Args:
            choice: The value of :attr:`choice`.
        """


class EngineOfNodes(Engine):
    """Interface of engines whose workers' data lie on other machines, which they reach and this process does not.

    It goes with a population that ``lies_elsewhere``, and with no other.
    """

    def expect(self, facts: RunFacts) -> None:
        """Take note of the run that is about to begin; called before each :meth:`introduce`.

        Args:
            facts: The facts.

        Raises:
            ValueError: If such a run is not for real machines.
        """

    @abstractmethod
    def introduce(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        """Get ready for a run of any kind: called once at its start, before ``setup`` and any question.

        A sanity check comes before ``setup``, and a run that only evaluates never comes to it.

        Args:
            module: The user's module.
            workers: The workers, of which nothing can be looked up but names and numbers of examples.
            trainer: The Trainer of the run.
            outbox: What leaves workers in training, whose algorithm and own state also make personal models.
        """

    def session(self) -> tuple[SecureServer, Machines]:
        """Return the session of secure aggregation that the last ``run`` has begun: the server, and the workers'
        machines, to which it can send messages.

        Raises:
            ValueError: If the engine has none.
            AbortError: If no worker was to train.
        """
        raise ValueError(
            f"engine={type(self).__name__} exchanges no keys with its nodes: leave out secure_aggregation=, or take "
            "another engine"
        )

    @abstractmethod
    def evaluate(
        self, kind: EvaluationKind, workers: Sequence[str], job: Job, limit: int | float | None
    ) -> Iterator[tuple[str, Buffer | WorkerError]]:
        """Evaluate some workers where their data are.

        Args:
            kind: On which of their loaders.
            workers: Their names; there may be too many to list them.
            job: The global model, and what workers are to keep of their own state.
            limit: The number of batches of each worker, the part of each if it is a float, or None: all.

        Yields:
            Each worker once, in any order, with the bytes of its share (:func:`~lightning_fed.wire.encode_share`), or
            in place of them the error of one that failed. It is not gone through to its end if the run ends before.
        """
