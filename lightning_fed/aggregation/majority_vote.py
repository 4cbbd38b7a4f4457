"""The majority of the workers' signs in each coordinate (Bernstein et al. 2018, *signSGD*, algorithm 3)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import final

import torch

from lightning_fed.aggregation.base import Aggregator
from lightning_fed.aggregation.mean import Sums, WeightedMean
from lightning_fed.core.arguments import number, settle
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, Job, Updates


@final
@dataclass(frozen=True)
class MajorityVote(Aggregator[Sums]):
    """``scale · sign(Σ sign(Δᵢ))``: each worker has one vote on the sign of each coordinate, and 0 abstains.

    Fewer than half of the workers cannot reverse a coordinate on which all others agree. With ``Compressed(Sign())``
    a vote takes one bit; any other update works too, since only signs count. Without error feedback it may fail to
    converge where workers' data differ. Buffers are averaged with equal weights.

    Args:
        scale: The length of a step in each coordinate, in the units of the parameters; the server optimizer's learning
            rate multiplies it.

    Raises:
        TypeError: If ``scale`` is not a number.
        ValueError: If ``scale`` is not positive and finite.
    """

    scale: float

    counts_equally = True

    def __post_init__(self) -> None:
        settle(self, scale=number("scale", self.scale, above=0, owner=self))

    def fold(self, updates: Iterable[Updates], job: Job) -> Sums:
        return WeightedMean().fold((_votes(update) for update in updates), job)

    def finish(self, partial: Sums, processes: Processes) -> Aggregate:
        mean = WeightedMean().finish(partial, processes)
        extra = {name: torch.sign(rows) * self.scale for name, rows in mean.extra.items()}
        return replace(mean, delta=torch.sign(mean.delta) * self.scale, extra=extra)


def _votes(updates: Updates) -> Updates:
    extra = {name: torch.sign(rows) for name, rows in updates.extra.items()}
    weight = (updates.weight > 0).to(updates.weight)
    return replace(updates, delta=torch.sign(updates.delta), extra=extra, weight=weight)
