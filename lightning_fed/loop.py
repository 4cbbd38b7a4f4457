"""One round, read top to bottom: broadcast, train locally, aggregate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from torch import Tensor

from lightning_fed._lightning import isolate_rng
from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.errors import RoundError, WorkerError
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import finite_rows
from lightning_fed.core.types import Aggregate, Job, LocalTraining, Updates
from lightning_fed.engines import Engine
from lightning_fed.report import RoundReport
from lightning_fed.transforms import UpdateTransform

_log = logging.getLogger(__name__)


@final
@dataclass(frozen=True)
class FederatedLoop:
    """Runs rounds: trains a cohort's workers locally and aggregates what comes back.

    Args:
        algorithm: What a round computes.
        engine: How workers are trained.
        aggregator: How updates become one.
        processes: The processes that share a cohort.
        num_examples: Gives a worker's number of training examples, to divide a cohort evenly.
        transforms: Steps on updates before they leave the workers, and on the aggregate.
        on_worker_error: ``"raise"`` ends the run when a worker fails; ``"drop"`` goes on without it.
        min_workers: The number of workers below which a round fails even with ``"drop"``.
    """

    algorithm: Algorithm
    engine: Engine
    aggregator: Aggregator[Any]
    processes: Processes
    num_examples: Callable[[str], int]
    transforms: Sequence[UpdateTransform] = ()
    on_worker_error: Literal["raise", "drop"] = "raise"
    min_workers: int = 1

    def run(self, job: Job, cohort: Sequence[str]) -> tuple[Aggregate, RoundReport]:
        """Run one round. The global model is only read: applying the aggregate is the server optimizer's work.

        Args:
            job: The global model and how long each worker trains.
            cohort: The names of the workers.

        Returns:
            The aggregate, the same on every process, and the report of all workers.

        Raises:
            WorkerError: If a worker failed and ``on_worker_error="raise"``.
            RoundError: If fewer than ``min_workers`` workers are left.
        """
        report = RoundReport()
        with isolate_rng(include_cuda=torch.cuda.is_available()), torch.no_grad():
            results = self.algorithm.visit(self._train, job, self._share(job, cohort))
            partial = self.aggregator.fold(self._accepted(results, job, report), job)
        # From here on all processes act alike: each knows what happened on the others, and none waits for one that
        # has left.
        report = RoundReport.merged(self.processes.gather(report), cohort)
        self._judge(report, job)
        with torch.no_grad():
            aggregate = self.aggregator.finish(partial, self.processes)
            for transform in reversed(self.transforms):
                aggregate = transform.server(aggregate)
        return aggregate, report

    def _share(self, job: Job, cohort: Sequence[str]) -> Sequence[str]:
        if self.processes.size == 1:
            return cohort
        if not self.algorithm.divisible:
            return cohort if self.processes.rank == 0 else ()
        return self.processes.share(cohort, {name: work(job.local, self.num_examples(name)) for name in cohort})

    def _train(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        """Let the engine train, and turn every update that must not reach an aggregator into an error."""
        for result in self.engine.run(job, cohort):
            if isinstance(result, WorkerError):
                yield result
                continue
            finite = _finite(result, job)
            if not finite.all():
                for worker, good in zip(result.workers, finite.tolist(), strict=True):
                    if not good:
                        yield WorkerError(worker, job.round, _NOT_FINITE)
                result = result.rows(finite)
            if result.workers:
                for transform in self.transforms:
                    result = transform.worker(result)
                yield result
            del result  # here and below: see Sequential.run

    def _accepted(self, results: Iterable[Updates | WorkerError], job: Job, report: RoundReport) -> Iterator[Updates]:
        """Pass on the updates and note everything in the report; stop at the first error if errors are to raise."""
        for result in results:
            if isinstance(result, WorkerError):
                report.failures.append(result)
                report.bytes_down += job.num_bytes
                if self.on_worker_error == "raise":
                    return
                _log.warning("%s; the round goes on without it", result)
            else:
                report.note(result, job)
                yield result
            del result

    def _judge(self, report: RoundReport, job: Job) -> None:
        if report.failures and self.on_worker_error == "raise":
            first = report.failures[0]
            raise first from first.__cause__
        if len(report.workers) < self.min_workers:
            failures = "".join(f"\n  {failure}" for failure in report.failures)
            raise RoundError(
                f"round {job.round}: {len(report.workers)} workers are left, but min_workers={self.min_workers}; the "
                f"global model is as it was before the round. What failed:{failures}"
            )


def work(local: LocalTraining, examples: int) -> int:
    """What one worker's training costs in comparison with others', to divide a cohort by.

    >>> work(LocalTraining(epochs=2), examples=30)
    60
    >>> work(LocalTraining(steps=5), examples=30)  # as many batches for everyone
    5
    """
    return local.epochs * examples if local.steps is None else local.steps


def _finite(updates: Updates, job: Job) -> Tensor:
    """Say for each worker whether its update is finite, as far as the global model is; bool ``[n]``."""
    finite = finite_rows(updates.delta)
    for name in job.finite_buffers:
        finite &= finite_rows(updates.buffers[name])
    return finite


_NOT_FINITE = (
    "its update has NaN or Inf in it, so its local training diverged; lower the learning rate, look at its data, or go "
    'on without it: FederatedModule(on_worker_error="drop")'
)
