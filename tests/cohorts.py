"""Updates made by hand, an aggregator that remembers, and workers that are away, for tests of aggregators."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator, UniformMean
from lightning_fed.aggregation.mean import Sums
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.selection import Availability, Response
from lightning_fed.wire import Aggregate, GlobalModel, Job, LocalTraining, Updates


def job(parameters: dict[str, Tensor], buffers: dict[str, Tensor] | None = None) -> Job:
    """What was sent."""
    return Job(0, 0, 0, GlobalModel(parameters, buffers or {}), LocalTraining())


def stack(
    delta: Tensor, weight: list[float], buffers: dict[str, Tensor] | None = None, steps: list[int] | None = None
) -> Updates:
    """What came back."""
    return Updates(
        cohort=0,
        workers=tuple(f"w{i}" for i in range(len(weight))),
        delta=delta,
        buffers=buffers or {},
        examples=torch.tensor(weight, dtype=torch.float64),
        weight=torch.tensor(weight, dtype=torch.float64),
        loss=torch.zeros(len(weight), dtype=torch.float64),
        steps=torch.ones(len(weight), dtype=torch.float64) if steps is None else torch.tensor(steps).double(),
    )


class HalfOfBefore(Aggregator[Sums]):
    """The mean, and half of the aggregate before.

    Args:
        name: The name under which that is remembered; ``way`` is FedDyn's, too.
        before: The aggregate before.
    """

    counts_equally = True

    def __init__(self, name: str = "way", before: Tensor | None = None) -> None:
        self.name, self.before = name, before

    def of_round(self, job: Job, server: Tensors) -> HalfOfBefore:
        return HalfOfBefore(self.name, server.get(self.name))

    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        server[self.name] = aggregate.delta.clone()

    def fold(self, updates: Iterable[Updates], job: Job) -> Sums:
        return UniformMean().fold(updates, job)

    def of_sum(self, total: Any, job: Job) -> Sums:
        return UniformMean().of_sum(total, job)

    def finish(self, partial: Sums, processes: Processes) -> Aggregate:
        mean = UniformMean().finish(partial, processes)
        return mean if self.before is None else replace(mean, delta=mean.delta + self.before / 2)


class AwayInRound1(Availability):
    """All reply, but in the second round these workers do not.

    Args:
        workers: Their names; none: all.
    """

    def __init__(self, *workers: str) -> None:
        self.workers = workers

    def respond(self, worker: str, number: int, seed: int) -> Response:
        return Response("absent" if number == 1 and (not self.workers or worker in self.workers) else "replies")
