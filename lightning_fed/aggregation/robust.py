"""Base of the aggregators that must see all updates of a cohort at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, final

import torch
from torch import Tensor

from lightning_fed.aggregation.base import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Aggregate, Job, Updates, wide

Combine: TypeAlias = Callable[[Tensor], Tensor]
"""From one row per worker, ``[n, m]``, to one row, ``[m]``."""


@final
@dataclass
class Gathered:
    """Everything that came in."""

    workers: tuple[str, ...]
    delta: Tensor
    buffers: Tensors
    extra: Tensors


class RobustAggregator(Aggregator[Gathered]):
    """Keeps all updates of a cohort, n times the model's size on every process, and combines them at the end.

    Every worker counts the same: a number of examples is what an attacker says it is. Float and complex buffers are
    combined as parameters are; of integer ones the (lower) median is taken.
    """

    counts_equally: ClassVar[bool] = True

    @abstractmethod
    def combination(self, delta: Tensor) -> Combine:
        """Look at all updates and say how to combine rows of these workers.

        Args:
            delta: ``[n, size]``; n fulfils :meth:`check`. Read only.
        """

    def fold(self, updates: Iterable[Updates], job: Job) -> Gathered:
        workers: tuple[str, ...] = ()
        deltas = [job.model.vector.new_empty(0, job.model.layout.size)]
        buffers = {name: [b.new_empty(0, *b.shape)] for name, b in job.model.buffers.items()}
        extra = {name: [deltas[0]] for name in job.extra}
        for update in updates:
            workers += update.workers
            deltas.append(update.delta)
            for name, parts in buffers.items():
                parts.append(update.buffers[name])
            for name, parts in extra.items():
                parts.append(update.extra[name])
        return Gathered(
            workers,
            torch.cat(deltas),
            {name: torch.cat(parts) for name, parts in buffers.items()},
            {name: torch.cat(parts) for name, parts in extra.items()},
        )

    def finish(self, partial: Gathered, processes: Processes) -> Aggregate:
        names = [name for theirs in processes.gather(partial.workers) for name in theirs]
        self.check(len(names))
        # By name, so that a tie is decided alike however the cohort was divided.
        order = torch.tensor(sorted(range(len(names)), key=names.__getitem__), device=partial.delta.device)
        delta = processes.gather_rows(partial.delta)[order]
        combine = self.combination(delta)
        buffers = {name: processes.gather_rows(b)[order] for name, b in partial.buffers.items()}
        extra = {name: combine(processes.gather_rows(rows)[order]) for name, rows in partial.extra.items()}
        return Aggregate(combine(delta), {name: _combined(combine, b) for name, b in buffers.items()}, extra)


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
