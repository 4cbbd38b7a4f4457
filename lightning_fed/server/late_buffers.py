"""Buffers that the global model does not have yet: new ones, larger ones, and frozen parameters that begin to move.

An aggregator is given updates with just the names, shapes and dtypes of the global model. What workers send beyond
that is aggregated here, once: from the next round on it is part of the global model.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from lightning_fed.aggregation import RobustAggregator
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, GlobalModel, RoundError, Updates, WorkerError, wide


@final
@dataclass
class LateBuffers:
    """Takes late buffers out of updates, and aggregates them.

    The rules are those of buffers: a mean of floats, weighted as the updates are, the maximum of integers; the median
    of both if the aggregator is robust. A worker that has not moved a frozen parameter counts with the global value.

    Args:
        model: The global model.
        round: The number of the round.
    """

    model: GlobalModel
    round: int
    _rows: dict[str, list[Tensor]] = field(default_factory=dict)
    _weights: dict[str, list[Tensor]] = field(default_factory=dict)
    _others: list[tuple[frozenset[str], Tensor]] = field(default_factory=list)

    def check(self, updates: Updates) -> list[WorkerError]:
        """Return errors in place of workers whose buffer has another shape than those of the workers before them.

        Args:
            updates: The updates of n workers, whose buffers are of one shape.
        """
        for name in self._late(updates):
            shape = tuple(updates.buffers[name].shape[1:])
            if name in self._rows and shape != tuple(self._rows[name][0].shape[1:]):
                reason = (
                    f"after its training the buffer {name} has the shape {shape}, and that of other workers "
                    f"{tuple(self._rows[name][0].shape[1:])}; buffers are averaged, so let them grow alike, or "
                    "keep them out of the module's buffers"
                )
                return [WorkerError(worker, self.round, reason) for worker in updates.workers]
        return []

    def take(self, updates: Updates) -> Updates:
        """Keep what is late, and return updates with the buffers that the model has.

        Args:
            updates: The updates of n workers.
        """
        late = self._late(updates)
        if not late and updates.buffers.keys() == self.model.buffers.keys():
            self._others.append((frozenset(), updates.weight))
            return updates
        for name in late:
            self._rows.setdefault(name, []).append(updates.buffers[name])
            self._weights.setdefault(name, []).append(updates.weight)
        self._others.append((frozenset(late), updates.weight))
        n = len(updates.workers)
        there = {
            name: buffer.expand(n, *buffer.shape) if name in late else updates.buffers[name]
            for name, buffer in self.model.buffers.items()
        }
        return replace(updates, buffers=there)

    def finish(self, aggregate: Aggregate, aggregator: object, processes: Processes) -> Aggregate:
        """Return the aggregate with the late buffers of all processes in it.

        Args:
            aggregate: The aggregate of everything else.
            aggregator: Decides whether a mean or a median is taken.
            processes: The processes.

        Raises:
            RoundError: If workers of different processes sent different shapes.
        """
        mine = {name: (torch.cat(rows), torch.cat(self._weights[name])) for name, rows in self._rows.items()}
        heard = processes.gather(mine) if self._any(processes) else [mine]
        names = dict.fromkeys(name for theirs in heard for name in theirs)
        if not names:
            return aggregate
        buffers = dict(aggregate.buffers)
        for name in names:
            parts = [theirs[name] for theirs in heard if name in theirs]
            if len({part.shape[1:] for part, _ in parts}) > 1:
                raise RoundError(f"round {self.round}: workers sent the buffer {name} in different shapes")
            rows, weights = (torch.cat([part[side] for part in parts]) for side in (0, 1))
            if name in self.model.frozen and name not in self.model.buffers:
                still = torch.cat(processes.gather(self._weights_without(name)))
                value = self.model.frozen[name].detach().to(rows)
                rows = torch.cat([rows, value.expand(len(still), *value.shape)])
                weights = torch.cat([weights, still])
            buffers[name] = _combined(rows, weights, robust=isinstance(aggregator, RobustAggregator))
        return replace(aggregate, buffers=buffers)

    def _late(self, updates: Updates) -> list[str]:
        known = self.model.buffers
        return [
            name
            for name, rows in updates.buffers.items()
            if name not in known or rows.shape[1:] != known[name].shape or rows.dtype != known[name].dtype
        ]

    def _any(self, processes: Processes) -> bool:
        return processes.size > 1 and any(processes.gather(bool(self._rows)))

    def _weights_without(self, name: str) -> Tensor:
        """The weights of the workers that have not sent a buffer."""
        without = [weight for names, weight in self._others if name not in names]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *without])


def _combined(rows: Tensor, weights: Tensor, robust: bool) -> Tensor:
    if not (rows.is_floating_point() or rows.is_complex()):
        return rows.to(torch.int64).median(dim=0).values.to(rows.dtype) if robust else rows.amax(dim=0)
    keep = weights > 0
    rows, weights = rows[keep.to(rows.device)], weights[keep]
    if robust:
        real = torch.view_as_real(rows) if rows.is_complex() else rows.to(wide(rows.dtype))
        middle = real.quantile(0.5, dim=0).to(real.dtype)
        return (torch.view_as_complex(middle) if rows.is_complex() else middle).to(rows.dtype)
    accurate = rows if rows.is_complex() else rows.to(wide(rows.dtype))
    mean: Tensor = torch.tensordot((weights / weights.sum()).to(accurate), accurate, dims=1)
    return mean.to(rows.dtype)
