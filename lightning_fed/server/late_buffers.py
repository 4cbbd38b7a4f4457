"""Buffers that the global model does not have yet: new ones, larger ones, and frozen parameters that begin to move.

An aggregator is given updates with just the names, shapes and dtypes of the global model. What workers send beyond
that is aggregated here, once: from the next round on it is part of the global model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator, CohortAggregator
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, GlobalModel, RoundError, Updates, WorkerError, wide


@final
@dataclass
class LateBuffers:
    """Takes late buffers out of updates, and aggregates them.

    The rules are those of buffers: a mean of floats, weighted as the updates are, the maximum of integers; the median
    of both if the aggregator is robust. A worker that has not moved a frozen parameter counts with the global value.
    Which shape and dtype a buffer has from now on, most workers of the round decide, and not the first that answers.

    Args:
        model: The global model.
        round: The number of the round.
    """

    model: GlobalModel
    round: int
    _rows: dict[str, list[Tensor]] = field(default_factory=dict)
    _weights: dict[str, list[Tensor]] = field(default_factory=dict)
    _others: list[tuple[frozenset[str], Tensor]] = field(default_factory=list)

    def sift(self, results: Iterable[Updates | WorkerError]) -> Iterator[Updates | WorkerError]:
        """Pass on results, with errors in place of workers whose buffer has another shape or dtype than most have.

        Updates with such buffers are held back until all have been seen; it is a rare round that has any.

        Args:
            results: Those of a round. The buffers of one of them, of n workers, are of one shape.
        """
        votes: dict[str, Counter[_Form]] = {}
        workers, held = 0, list[Updates]()
        for result in results:
            if isinstance(result, WorkerError):
                yield result
                continue
            workers += len(result.workers)
            changed = {name: _form(result.buffers[name]) for name in self._late(result)}
            changed = {name: form for name, form in changed.items() if form != self._form_so_far(name)}
            for name, form in changed.items():
                votes.setdefault(name, Counter())[form] += len(result.workers)
            if changed:
                held.append(result)
            else:
                yield result
            del result
        forms = {name: self._elected(name, counts, workers) for name, counts in votes.items()}
        while held:
            updates = held.pop(0)
            errors = self._errors(updates, forms)
            if errors:
                yield from errors
            else:
                yield updates
            del updates

    def _elected(self, name: str, counts: Counter[_Form], workers: int) -> _Form:
        """Return the form that most workers have; among equals the model's, or else that of the earliest."""
        form, most = max(counts.items(), key=lambda item: item[1])
        so_far = self._form_so_far(name)
        return form if so_far is None or most > workers - counts.total() else so_far

    def _errors(self, updates: Updates, forms: dict[str, _Form]) -> list[WorkerError]:
        for name, rows in updates.buffers.items():
            if name in forms and _form(rows) != forms[name]:
                reason = (
                    f"after its training the buffer {name} {_told(_form(rows), forms[name])}; buffers are averaged, so "
                    "let them grow alike, or keep them out of the module's buffers"
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

    def finish(self, aggregate: Aggregate, aggregator: Aggregator[Any], processes: Processes) -> Aggregate:
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
            buffers[name] = _combined(rows, weights, robust=isinstance(aggregator.rule, CohortAggregator))
        return replace(aggregate, buffers=buffers)

    def _late(self, updates: Updates) -> list[str]:
        known = self.model.buffers
        return [
            name
            for name, rows in updates.buffers.items()
            if name not in known or rows.shape[1:] != known[name].shape or rows.dtype != known[name].dtype
        ]

    def _form_so_far(self, name: str) -> _Form | None:
        tensor = self.model.buffers.get(name, self.model.frozen.get(name))
        return None if tensor is None else (tuple(tensor.shape), tensor.dtype)

    def _any(self, processes: Processes) -> bool:
        return processes.size > 1 and any(processes.gather(bool(self._rows)))

    def _weights_without(self, name: str) -> Tensor:
        """The weights of the workers that have not sent a buffer."""
        without = [weight for names, weight in self._others if name not in names]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *without])


_Form: TypeAlias = tuple[tuple[int, ...], torch.dtype]


def _form(rows: Tensor) -> _Form:
    """Return the shape and the dtype that a buffer has at each of n workers, given their rows."""
    return tuple(rows.shape[1:]), rows.dtype


def _told(mine: _Form, theirs: _Form) -> str:
    if mine[0] != theirs[0]:
        return f"has the shape {mine[0]}, and that of most other workers {theirs[0]}"
    return f"is of {mine[1]}, and that of most other workers of {theirs[1]}"


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
