"""The extension point for aggregators."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from lightning_fed.aggregation.cohort_sum import CohortSum
from lightning_fed.core.processes import Processes
from lightning_fed.core.shown import Shown
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Aggregate, Job, Updates

Partial = TypeVar("Partial")


class Aggregator(Shown, ABC, Generic[Partial]):
    """Base of the rules that combine the updates of a cohort into one.

    Aggregation has two steps, because several processes may share a cohort: each process folds the updates of its own
    workers, then all processes finish together. Every update that arrives is finite and has the names, shapes and
    dtypes of the global model.
    """

    always: bool = False
    """Whether :meth:`finish` is called even if no update arrived. Otherwise such a round changes nothing."""

    counts_equally: bool = False
    """Whether every worker has the same weight, whatever number of examples it reports."""

    counts_steps: ClassVar[bool] = False
    """Whether the aggregator uses numbers of local steps, which are defined only for a single local optimizer."""

    goes_by_names: ClassVar[bool] = False
    """Whether the aggregator treats updates by worker name, as simulated attacks do. Refused under a promise."""

    @property
    def rule(self) -> Aggregator[Any]:
        """The aggregator whose rule combines the updates: this one, or the one that it wraps."""
        return self

    def of_sum(self, total: CohortSum, job: Job) -> Partial:
        """Return the result of :meth:`fold` for updates of which only the sum is available.

        Secure aggregation yields only the sum. An aggregator that needs each update, such as a median, does not
        override this method.

        Args:
            total: The sum.
            job: The job that was sent to the workers.

        Raises:
            ValueError: If the aggregator needs each worker's update.
        """
        raise ValueError(
            f"{type(self).__name__} needs each worker's update, and secure aggregation shows sums only; use "
            "UniformMean(), or WeightedMean() with SecureAggregation(weight_cap=...)"
        )

    @classmethod
    def takes_sums(cls) -> bool:
        """Whether :meth:`of_sum` is defined."""
        return cls.of_sum is not Aggregator.of_sum

    def count(self, replies: int) -> float:
        """Return the denominator of the mean: the number of replies, or the expected cohort size for ``PrivateSum``.

        Args:
            replies: The number of workers that sent an update.
        """
        return replies

    def check(self, cohort_size: int) -> None:
        """Refuse a cohort that is too small for the aggregator's guarantee; called before the first round.

        Args:
            cohort_size: The number of workers in a round.

        Raises:
            ValueError: Stating the inequality that does not hold.
        """

    def beyond_proof(self, cohort_size: int) -> str | None:
        """Return a warning for the start of a fit if the aggregator is used beyond its proof; else None.

        Args:
            cohort_size: The number of workers in a round.
        """
        return None

    def check_population(self, workers: Iterable[str]) -> None:
        """Refuse a population that lacks a worker named by the aggregator; called before the first round.

        Args:
            workers: The names of all workers.

        Raises:
            ValueError: Naming one of them.
        """

    def of_round(self, job: Job, server: Tensors) -> Aggregator[Partial]:
        """Return the aggregator of one round, which may use the server state; called first in the round.

        The aggregator itself must not change, since a round may be abandoned: return a copy, or ``self`` if the
        aggregator has no state and draws nothing at random.

        Args:
            job: The job that is sent to the workers; derive all randomness from its seed and cohort.
            server: The state that :meth:`remember` stored, by name; read only.
        """
        return self

    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        """Store state for the next round. Called on every process, only if the round succeeds.

        The default stores nothing and removes the state of another aggregator, which the checkpoint of a resumed run
        may hold.

        Args:
            aggregate: The result of :meth:`finish`; store copies of its tensors.
            server: The aggregator's state, by name; changed here only, by replacing tensors. Checkpoints hold it
                beside the algorithm's server state; the names of the two cannot collide.
        """
        server.clear()

    def expect_to_lose(self, workers: Sequence[str]) -> None:
        """Receive the names of workers whose updates will be lost in this round. Called before :meth:`fold`.

        Args:
            workers: Their names; the same on every process.
        """

    @abstractmethod
    def fold(self, updates: Iterable[Updates], job: Job) -> Partial:
        """Fold the updates of this process's workers, as a stream.

        Args:
            updates: Stacks of updates; possibly none, if this process has no worker or all of its workers failed.
            job: The job that was sent to the workers; it has the names, shapes, dtypes and devices.
        """

    @abstractmethod
    def finish(self, partial: Partial, processes: Processes) -> Aggregate:
        """Combine the partial results of all processes; called on every process if an update arrived or ``always``.

        Args:
            partial: The result of :meth:`fold` on this process.
            processes: The processes, for sums and gathers.

        Returns:
            The same aggregate on every process.
        """
