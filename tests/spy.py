"""An aggregator that keeps what crosses, as it is and as bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator, WeightedMean
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, Job, Updates, encode_job, encode_updates


class Spy(Aggregator[Any]):
    """Any aggregator, which keeps what it is given."""

    def __init__(self, aggregator: Aggregator[Any] | None = None) -> None:
        self.aggregator = WeightedMean() if aggregator is None else aggregator
        self.seen: list[tuple[Job, Updates]] = []

    def fold(self, updates: Iterable[Updates], job: Job) -> Any:
        listed = list(updates)
        buffers = {n: b.clone() for n, b in job.model.buffers.items()}  # they live on
        job = replace(job, model=replace(job.model, buffers=buffers))
        self.seen.extend((job, u) for u in listed)
        return self.aggregator.fold(listed, job)

    def finish(self, partial: Any, processes: Processes) -> Aggregate:
        return self.aggregator.finish(partial, processes)

    def deltas(self, cohort: int) -> dict[str, Tensor]:
        """Every worker's delta in one cohort."""
        return {
            worker: updates.delta[row]
            for job, updates in self.seen
            for row, worker in enumerate(updates.workers)
            if job.cohort == cohort
        }

    def jobs(self, cohort: int = 0) -> dict[str, bytes]:
        """What every worker of a cohort that came back was sent."""
        return {
            worker: encode_job(job.of(worker))
            for job, updates in self.seen
            for worker in updates.workers
            if job.cohort == cohort
        }

    def updates(self, cohort: int = 0) -> dict[str, bytes]:
        """What every worker of a cohort sent."""
        return {
            worker: encode_updates(updates.rows(torch.arange(len(updates.workers)) == row), job)
            for job, updates in self.seen
            for row, worker in enumerate(updates.workers)
            if job.cohort == cohort
        }


def length(messages: dict[str, bytes]) -> int:
    """The length of all messages."""
    return sum(map(len, messages.values()))


def tensor_bytes(message: bytes) -> int:
    """The length of what follows a message's header."""
    return len(message) - 8 - int.from_bytes(message[:8], "little")
