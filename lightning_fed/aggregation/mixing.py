"""Base of the aggregators that mix updates and hand the mixtures to another aggregator."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import Self

from lightning_fed.aggregation.robust import CohortAggregator, Gathered
from lightning_fed.core.arguments import instance
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Aggregate, Job, wide


@dataclass(frozen=True)
class Mixing(CohortAggregator):
    """Replaces n updates by k means of them, and hands the means to another aggregator.

    Float buffers are mixed in the same way. Integer buffers have no means: the aggregator gets those of all workers.

    Args:
        aggregator: The other aggregator, in which workers count equally.

    Raises:
        TypeError: If the aggregator is not one that keeps all updates of a cohort.
        ValueError: If workers do not count equally in the aggregator.
    """

    aggregator: CohortAggregator

    def __post_init__(self) -> None:
        name = type(self).__name__
        inner = instance(f"{name}(aggregator)", self.aggregator, CohortAggregator, "Median()")
        if not inner.counts_equally:
            raise ValueError(
                f"{name}(aggregator={inner}): a mean of several updates has no number of examples to count by; let "
                "workers count equally in it, as in GeometricMedian()"
            )

    @abstractmethod
    def shares(self, cohort: Gathered) -> Tensor:
        """Return the weight of each update in each mean; float64 ``[k, n]``, each row sums to 1.

        Args:
            cohort: The n updates.
        """

    def means(self, cohort_size: int) -> int:
        """Return the number of means, k.

        Args:
            cohort_size: The number of updates, n.
        """
        return cohort_size

    def check(self, cohort_size: int) -> None:
        means = self.means(cohort_size)
        try:
            self.aggregator.check(means)
        except ValueError as error:
            raise ValueError(
                f"{self!r} makes {means} means of n={cohort_size} workers, too few for its aggregator: {error}"
            ) from error

    def beyond_proof(self, cohort_size: int) -> str | None:
        return self.aggregator.beyond_proof(self.means(cohort_size))

    def of_round(self, job: Job, server: Tensors) -> Self:
        return replace(self, aggregator=self.aggregator.of_round(job, server))

    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        self.aggregator.remember(aggregate, server)

    def combined(self, cohort: Gathered) -> Aggregate:
        shares = self.shares(cohort)
        mixed = Gathered(
            tuple(f"{row:09}" for row in range(len(shares))),
            _mixed(shares, cohort.delta),
            {name: _mixed(shares, buffer) for name, buffer in cohort.buffers.items()},
            {name: _mixed(shares, rows) for name, rows in cohort.extra.items()},
            torch.ones(len(shares), dtype=torch.float64, device=cohort.delta.device),
        )
        return self.aggregator.combined(mixed)


def _mixed(shares: Tensor, rows: Tensor) -> Tensor:
    if rows.is_complex():
        return torch.view_as_complex(_mixed(shares, torch.view_as_real(rows)))
    if not rows.is_floating_point():
        return rows
    flat = rows.reshape(len(rows), -1).to(wide(rows.dtype))
    return (shares.to(flat.dtype) @ flat).to(rows.dtype).view(len(shares), *rows.shape[1:])
