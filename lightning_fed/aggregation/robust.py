"""Base of the aggregators that must see all updates of a cohort at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias, final

import torch
from torch import Tensor

from lightning_fed.aggregation.base import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Aggregate, Job, Updates, wide

Combine: TypeAlias = Callable[[Tensor], Tensor]
"""A function from one row per worker, ``[n, m]``, to one row, ``[m]``."""


@final
@dataclass(frozen=True)
class Gathered:
    """All updates of a cohort that arrived.

    Args:
        workers: The n names.
        delta: ``[n, size]``.
        buffers: ``{name: [n, ...]}``.
        extra: ``{name: [n, size]}``.
        weight: The weight that each worker reports; float64 ``[n]``.
    """

    workers: tuple[str, ...]
    delta: Tensor
    buffers: Tensors
    extra: Tensors
    weight: Tensor

    def together(self, processes: Processes) -> Gathered:
        """Return the updates of all processes, ordered by name: ties are then decided alike for any sharing.

        Args:
            processes: The processes.
        """
        names = [name for theirs in processes.gather(self.workers) for name in theirs]
        places = sorted(range(len(names)), key=names.__getitem__)
        order = torch.tensor(places, device=self.delta.device)

        def rows(mine: Tensor) -> Tensor:
            return processes.gather_rows(mine)[order]

        return Gathered(
            tuple(names[place] for place in places),
            rows(self.delta),
            {name: rows(buffer) for name, buffer in self.buffers.items()},
            {name: rows(extra) for name, extra in self.extra.items()},
            rows(self.weight),
        )

    def combined(self, combine: Combine) -> Aggregate:
        """Return an aggregate whose parts are combined by one function; integer buffers by the lower median.

        Args:
            combine: The function.
        """
        extra = {name: combine(rows) for name, rows in self.extra.items()}
        return Aggregate(combine(self.delta), self.combined_buffers(combine), extra)

    def combined_buffers(self, combine: Combine) -> Tensors:
        """Return the buffers of :meth:`combined`.

        Args:
            combine: The function.
        """
        return {name: _combined(combine, buffer) for name, buffer in self.buffers.items()}


class CohortAggregator(Aggregator[Gathered]):
    """Base of the aggregators that keep all updates of a cohort (n model sizes on every process) and combine them last.

    Every worker has the same weight, unless a subclass declares otherwise: an attacker may report any number of
    examples.
    """

    counts_equally = True

    def of_round(self, job: Job, server: Tensors) -> CohortAggregator:
        return self

    @abstractmethod
    def combined(self, cohort: Gathered) -> Aggregate:
        """Combine a cohort.

        Args:
            cohort: The updates of all processes, in the order of the workers' names; their number satisfies
                ``check``. Read only.
        """

    def fold(self, updates: Iterable[Updates], job: Job) -> Gathered:
        workers: tuple[str, ...] = ()
        deltas = [job.model.vector.new_empty(0, job.model.layout.size)]
        weights = [torch.empty(0, dtype=torch.float64, device=deltas[0].device)]
        buffers = {name: [b.new_empty(0, *b.shape)] for name, b in job.model.buffers.items()}
        extra = {name: [deltas[0]] for name in job.extra}
        for update in updates:
            workers += update.workers
            deltas.append(update.delta)
            weights.append(update.weight.to(weights[0].device))
            for name, parts in buffers.items():
                parts.append(update.buffers[name])
            for name, parts in extra.items():
                parts.append(update.extra[name])
        return Gathered(
            workers,
            torch.cat(deltas),
            {name: torch.cat(parts) for name, parts in buffers.items()},
            {name: torch.cat(parts) for name, parts in extra.items()},
            torch.cat(weights),
        )

    def finish(self, partial: Gathered, processes: Processes) -> Aggregate:
        cohort = partial.together(processes)
        try:
            self.check(len(cohort.workers))
        except ValueError as error:  # the full cohort was large enough at the start of the fit
            raise ValueError(
                f"{error}; if workers were lost, FederatedModule(min_workers=...) gives up rounds with too few of them"
            ) from error
        return self.combined(cohort)


class RobustAggregator(CohortAggregator):
    """Base of the aggregators that choose from the deltas how to combine everything that the workers sent.

    Float and complex buffers are combined as parameters are; integer buffers by the lower median.
    """

    @abstractmethod
    def combination(self, delta: Tensor) -> Combine:
        """Return the function that combines rows of these workers.

        Args:
            delta: ``[n, size]``; n satisfies ``check``. Read only.
        """

    def combined(self, cohort: Gathered) -> Aggregate:
        return cohort.combined(self.combination(cohort.delta))


def _combined(combine: Combine, buffer: Tensor) -> Tensor:
    shape = buffer.shape[1:]
    if buffer.is_complex():
        real = torch.view_as_real(buffer)
        return torch.view_as_complex(combine(real.flatten(1)).view(*shape, 2).to(real.dtype))
    if buffer.is_floating_point():
        return combine(buffer.reshape(len(buffer), -1).to(wide(buffer.dtype))).view(shape).to(buffer.dtype)
    return buffer.to(torch.int64).median(dim=0).values.to(buffer.dtype)


def require(holds: bool, aggregator: object, cohort_size: int, condition: str) -> None:
    """Refuse a cohort that is too small for an aggregator's guarantee.

    Args:
        holds: Whether the cohort is large enough.
        aggregator: The aggregator.
        cohort_size: n.
        condition: The inequality that must hold.

    Raises:
        ValueError: If the condition does not hold.
    """
    if not holds:
        raise ValueError(
            f"{aggregator!r} needs {condition}, but n={cohort_size} workers; raise cohort_size, or guard against fewer "
            "attackers"
        )
