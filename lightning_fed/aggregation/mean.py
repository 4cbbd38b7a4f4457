"""The weighted mean (McMahan et al. 2017, algorithm 1), as a stream: its memory does not grow with the cohort."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from lightning_fed.aggregation.base import Aggregator
from lightning_fed.aggregation.cohort_sum import CohortSum
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors, add_weighted_
from lightning_fed.wire import Aggregate, GlobalModel, Job, Updates, wide


@dataclass
class Sums:
    """Weighted sums over the workers of one process, and the maxima of their integer buffers."""

    delta: Tensor
    buffers: Tensors
    largest: Tensors
    extra: Tensors
    weight: Tensor
    model: GlobalModel


@final
@dataclass(frozen=True)
class WeightedMean(Aggregator[Sums]):
    """``Σ wᵢ Δᵢ / Σ wᵢ``, where ``wᵢ`` is the number of examples of worker i, or the weight set by the algorithm.

    Float and complex buffers (BatchNorm statistics) are averaged with the same weights. Integer and bool buffers
    (counts, positions in a queue, flags) become the maximum over the cohort, even if the global value is larger; for
    one worker this is the worker's own value. If all weights are 0, nothing changes.
    """

    def fold(self, updates: Iterable[Updates], job: Job) -> Sums:
        floating = {n: b for n, b in job.model.buffers.items() if b.is_floating_point() or b.is_complex()}
        sums = Sums(
            delta=job.model.zeros(),
            buffers={n: torch.zeros(b.shape, dtype=wide(b.dtype), device=b.device) for n, b in floating.items()},
            largest={n: torch.full_like(b, _least(b.dtype)) for n, b in job.model.buffers.items() if n not in floating},
            extra={name: job.model.zeros() for name in job.extra},
            weight=torch.zeros((), dtype=torch.float64),
            model=job.model,
        )
        for update in updates:
            sums.weight += update.weight.sum()
            add_weighted_(sums.delta, update.weight, update.delta)
            for name, total in sums.buffers.items():
                add_weighted_(total, update.weight, update.buffers[name])
            for name, total in sums.extra.items():
                add_weighted_(total, update.weight, update.extra[name])
            if sums.largest and (counts := update.weight > 0).any():
                for name, largest in sums.largest.items():
                    rows = update.buffers[name][counts.to(largest.device)]
                    sums.largest[name] = torch.maximum(largest, rows.amax(dim=0))
            del update  # released at once: see outbox.py
        return sums

    def of_sum(self, total: CohortSum, job: Job) -> Sums:
        sums = self.fold((), job)
        sums.weight += total.weight
        sums.delta.copy_(total.delta)
        for name, summed in total.extra.items():
            sums.extra[name].copy_(summed)
        for name, value in sums.buffers.items():
            value.copy_(job.model.buffers[name]).mul_(total.weight)
            if name in total.buffers:
                value += total.buffers[name]
        # A maximum cannot be computed from a sum: such buffers stay as they are.
        sums.largest = {name: job.model.buffers[name].clone() for name in sums.largest}
        return sums

    def finish(self, partial: Sums, processes: Processes) -> Aggregate:
        weight = partial.weight.to(partial.delta.device)
        processes.sum_([weight, partial.delta, *partial.buffers.values(), *partial.extra.values()])
        processes.max_(list(partial.largest.values()))
        total = float(weight)
        if total == 0:
            return replace(Aggregate.nothing(partial.model), extra=partial.extra)
        return Aggregate(
            delta=partial.delta.div_(total),
            buffers={**{name: value.div_(total) for name, value in partial.buffers.items()}, **partial.largest},
            extra={name: value.div_(total) for name, value in partial.extra.items()},
        )


def _least(dtype: torch.dtype) -> int:
    return 0 if dtype == torch.bool else torch.iinfo(dtype).min


@final
@dataclass(frozen=True)
class UniformMean(Aggregator[Sums]):
    """``Σ Δᵢ / n``: every worker counts the same, however many examples it has.

    Use it for cohorts drawn by size (:class:`~lightning_fed.selection.WeightedBySize`), for algorithms whose papers
    average uniformly, and where numbers of examples are not trustworthy or not to be disclosed. A worker of weight 0
    has not trained and is not counted.
    """

    counts_equally = True

    def fold(self, updates: Iterable[Updates], job: Job) -> Sums:
        return WeightedMean().fold((replace(u, weight=(u.weight > 0).to(u.weight)) for u in updates), job)

    def of_sum(self, total: CohortSum, job: Job) -> Sums:
        return WeightedMean().of_sum(total, job)

    def finish(self, partial: Sums, processes: Processes) -> Aggregate:
        return WeightedMean().finish(partial, processes)
