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
"""From one row per worker, ``[n, m]``, to one row, ``[m]``."""


@final
@dataclass(frozen=True)
class Gathered:
    """Everything that came in.

    Args:
        workers: The n names.
        delta: ``[n, size]``.
        buffers: ``{name: [n, ...]}``.
        extra: ``{name: [n, size]}``.
        weight: What each worker counts for by its own account; float64 ``[n]``.
    """

    workers: tuple[str, ...]
    delta: Tensor
    buffers: Tensors
    extra: Tensors
    weight: Tensor

    def together(self, processes: Processes) -> Gathered:
        """Return what all processes have gathered, by name, so that a tie is decided alike however they share a cohort.

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
        """Return an aggregate of which all parts are combined in one way; of integer buffers the lower median is taken.

        Args:
            combine: The way.
        """
        extra = {name: combine(rows) for name, rows in self.extra.items()}
        return Aggregate(combine(self.delta), self.combined_buffers(combine), extra)

    def combined_buffers(self, combine: Combine) -> Tensors:
        """Return the buffers of :meth:`combined`.

        Args:
            combine: The way.
        """
        return {name: _combined(combine, buffer) for name, buffer in self.buffers.items()}


class CohortAggregator(Aggregator[Gathered]):
    """Keeps all updates of a cohort, n times the model's size on every process, and combines them at the end.

    Every worker counts the same, unless a class says otherwise: a number of examples is what an attacker says it is.
    """

    counts_equally = True

    def of_round(self, job: Job, server: Tensors) -> CohortAggregator:
        return self

    @abstractmethod
    def combined(self, cohort: Gathered) -> Aggregate:
        """Combine a cohort.

        Args:
            cohort: The updates of all processes, in the order of the workers' names; their number fulfils
                :meth:`check`. Read only.
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
        except ValueError as error:  # at the start of the fit it was enough
            raise ValueError(
                f"{error}; if workers were lost, FederatedModule(min_workers=...) gives up rounds with too few of them"
            ) from error
        return self.combined(cohort)


class RobustAggregator(CohortAggregator):
    """Looks at the updates of a cohort and says how to combine whatever these workers have sent.

    Float and complex buffers are combined as parameters are; of integer ones the (lower) median is taken.
    """

    @abstractmethod
    def combination(self, delta: Tensor) -> Combine:
        """Look at all updates and say how to combine rows of these workers.

        Args:
            delta: ``[n, size]``; n fulfils :meth:`check`. Read only.
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
    """Refuse a cohort that is too small for what an aggregator promises.

    Args:
        holds: Whether it is large enough.
        aggregator: The aggregator.
        cohort_size: n.
        condition: The inequality that has to hold.

    Raises:
        ValueError: If it does not hold.
    """
    if not holds:
        raise ValueError(
            f"{aggregator!r} needs {condition}, but n={cohort_size} workers; raise cohort_size, or guard against fewer "
            "attackers"
        )
