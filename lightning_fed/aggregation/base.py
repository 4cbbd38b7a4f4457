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
    """Rule by which the updates of a cohort become one.

    Two steps, because a cohort may be shared by several processes: each folds the updates of its own workers, then all
    finish together. Every update that arrives is finite and has the names, shapes and dtypes of the global model.
    """

    always: bool = False
    """Whether :meth:`finish` is to be called even if no update came in. Otherwise such a round changes nothing."""

    counts_equally: bool = False
    """Whether every worker counts the same, whatever it says about its number of examples."""

    counts_steps: ClassVar[bool] = False
    """Whether it goes by numbers of local steps, of which there is one only where one optimizer takes them all."""

    goes_by_names: ClassVar[bool] = False
    """Whether it treats an update by whose it is, as attacks in a study do. No promise of privacy goes with that."""

    @property
    def rule(self) -> Aggregator[Any]:
        """The aggregator by whose rule updates become one: itself, or the one that it wraps."""
        return self

    def of_sum(self, total: CohortSum, job: Job) -> Partial:
        """Return what :meth:`fold` would have made of updates with a sum, if it needs no more than that.

        Secure aggregation shows nothing else. An aggregator that needs each update, such as a median, leaves this out.

        Args:
            total: The sum.
            job: What was sent to the workers.

        Raises:
            ValueError: If it needs each worker's update.
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
        """The number of workers that the aggregate counts as the mean of.

        Args:
            replies: The number that sent an update.
        """
        return replies

    def check(self, cohort_size: int) -> None:
        """Refuse a cohort that is too small for what the aggregator promises; called before the first round.

        Args:
            cohort_size: The number of workers in a round.

        Raises:
            ValueError: Stating the inequality that does not hold.
        """

    def beyond_proof(self, cohort_size: int) -> str | None:
        """Return a warning for the start of a fit, if the aggregator is used beyond what is proven of it; else None.

        Args:
            cohort_size: The number of workers in a round.
        """
        return None

    def check_population(self, workers: Iterable[str]) -> None:
        """Refuse a population without workers that the aggregator names; called before the first round.

        Args:
            workers: The names of all workers.

        Raises:
            ValueError: Naming one of them.
        """

    def of_round(self, job: Job, server: Tensors) -> Aggregator[Partial]:
        """Return the aggregator of one round, which may go by what was remembered; called before all else in it.

        The aggregator itself stays as it is, since a round may be given up: return a copy, or ``self`` if nothing is
        remembered and nothing drawn at random.

        Args:
            job: What is sent to the workers; randomness is to be derived from its seed and cohort.
            server: What :meth:`remember` has left, by name; read only.
        """
        return self

    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        """Remember something until the next round. Called on every process, only if the round succeeds.

        Without an override nothing is remembered, nor what another aggregator has left in the checkpoint of a run that
        goes on with this one.

        Args:
            aggregate: What :meth:`finish` returned; what is kept of it is to be a copy.
            server: What is remembered, by name; to be changed here only, by putting new tensors in place of old. It
                lies in checkpoints beside what the algorithm remembers, whose names cannot collide with these.
        """
        server.clear()

    def expect_to_lose(self, workers: Sequence[str]) -> None:
        """Hear who takes part in the round, and will be lost before anything comes back. Called before :meth:`fold`.

        Args:
            workers: Their names; the same on every process.
        """

    @abstractmethod
    def fold(self, updates: Iterable[Updates], job: Job) -> Partial:
        """Take in the updates of this process's workers, as a stream.

        Args:
            updates: Stacks of updates; possibly none, when this process has no worker or all of its workers failed.
            job: What was sent to the workers: gives names, shapes, dtypes and devices.
        """

    @abstractmethod
    def finish(self, partial: Partial, processes: Processes) -> Aggregate:
        """Combine what all processes folded. Called on every process, if an update came in or ``always`` is set.

        Args:
            partial: What :meth:`fold` returned on this process.
            processes: The processes, for sums and gathers.

        Returns:
            The same aggregate on every process.
        """
