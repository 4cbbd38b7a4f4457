"""One round, read top to bottom: broadcast, train locally, aggregate."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.processes import Processes
from lightning_fed.core.rng import isolated
from lightning_fed.core.tree import finite_rows
from lightning_fed.engines import Engine
from lightning_fed.selection import Availability, Response
from lightning_fed.state.own_state import AlgorithmState
from lightning_fed.transforms import UpdateTransform
from lightning_fed.wire import Aggregate, Job, RoundError, Updates, WorkerError
from lightning_fed.wire.report import RoundReport

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
        state: What the algorithm remembers.
        transforms: Steps on updates before they leave the workers, and on the aggregate.
        on_worker_error: ``"raise"`` ends the run when a worker fails; ``"drop"`` goes on without it.
        min_workers: The number of workers below which a round fails even with ``"drop"``.
        availability: What becomes of workers when they are asked to train.
    """

    algorithm: Algorithm
    engine: Engine
    aggregator: Aggregator[Any]
    processes: Processes
    num_examples: Callable[[str], int]
    state: AlgorithmState
    transforms: Sequence[UpdateTransform] = ()
    on_worker_error: Literal["raise", "drop"] = "raise"
    min_workers: int = 1
    availability: Availability | None = None

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
        job, present, responses = self._ask(job, cohort)
        self.state.begin(job.model.vector.device)
        with isolated(), torch.no_grad():
            results = self.algorithm.visit(self._train, job, self._share(job, present), self.state)
            partial = self.aggregator.fold(self._accepted(results, job, report), job)
        # From here on all processes act alike: each knows what happened on the others, and none waits for one that
        # has left.
        report = self._heard(RoundReport.merged(self.processes.gather(report), cohort), job, responses)
        if not self._has_quorum(report, job) and not self.aggregator.always:
            return Aggregate.nothing(job.model), report
        with torch.no_grad():
            aggregate = self.aggregator.finish(partial, self.processes)
            for transform in reversed(self.transforms):
                aggregate = transform.server(aggregate)
            self.state.commit(self.algorithm.tables, self.processes)  # after what may fail
            aggregate = self.algorithm.conclude(aggregate, job, self.state, self.aggregator.count(len(report)))
        return aggregate, report

    def _ask(self, job: Job, cohort: Sequence[str]) -> tuple[Job, Sequence[str], dict[str, Response]]:
        """Ask the cohort to train; gives the job with what stragglers do of it, who replies, and what all do."""
        if self.availability is None:
            return job, cohort, {}
        responses = {worker: self.availability.respond(worker, job.cohort, job.seed) for worker in cohort}
        present = [worker for worker, response in responses.items() if response.outcome == "replies"]
        work = {worker: responses[worker].work for worker in present if responses[worker].work < 1}
        return replace(job, work=work), present, responses

    def _heard(self, report: RoundReport, job: Job, responses: Mapping[str, Response]) -> RoundReport:
        lost = sum(response.outcome == "lost" for response in responses.values())
        return replace(
            report,
            dropped=tuple(worker for worker, response in responses.items() if response.outcome != "replies"),
            stragglers=tuple(job.work),
            bytes_down=report.bytes_down + lost * job.num_bytes,
        )

    def _share(self, job: Job, cohort: Sequence[str]) -> Sequence[str]:
        if self.processes.size == 1:
            return cohort
        if not self.algorithm.divisible:
            return cohort if self.processes.rank == 0 else ()
        return self.processes.share(cohort, {name: work(job, name, self.num_examples(name)) for name in cohort})

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
                yield result
            del result  # here and below: see Sequential.run

    def _accepted(self, results: Iterable[Updates | WorkerError], job: Job, report: RoundReport) -> Iterator[Updates]:
        """Pass on updates as they leave the workers, and note everything; stop at the first error if it is to raise."""
        for result in results:
            if isinstance(result, WorkerError):
                report.failures.append(result)
                report.bytes_down += job.num_bytes
                if self.on_worker_error == "raise":
                    return
                _log.warning("%s; the round goes on without it", result)
            else:
                for transform in self.transforms:
                    result = transform.worker(result)
                report.note(result, job)
                yield result
            del result

    def _has_quorum(self, report: RoundReport, job: Job) -> bool:
        """Whether enough workers are left. If only because workers failed they are not, that is an error.

        If workers were away, or chance has left the cohort empty, it is none: the round is given up, and changes
        nothing, as a server in the field would have it.
        """
        if report.failures and self.on_worker_error == "raise":
            first = report.failures[0]
            raise first from first.__cause__
        if len(report) >= self.min_workers:
            return True
        if report.failures and len(report) + len(report.failures) >= self.min_workers:
            failures = "".join(f"\n  {failure}" for failure in report.failures)
            raise RoundError(
                f"round {job.round}: {len(report)} workers are left, but min_workers={self.min_workers}; the "
                f"global model is as it was before the round. What failed:{failures}"
            )
        return False


def work(job: Job, worker: str, examples: int) -> float:
    """What one worker's training costs in comparison with others', to divide a cohort by.

    Args:
        job: Says how long it trains.
        worker: Its name.
        examples: The number of its examples.
    """
    size = job.local.epochs * examples if job.local.steps is None else job.local.steps
    return size * job.work.get(worker, 1.0)


def _finite(updates: Updates, job: Job) -> Tensor:
    """Say for each worker whether its update is finite, as far as the global model is; bool ``[n]``."""
    finite = finite_rows(updates.delta)
    if updates.gradient is not None:
        finite &= finite_rows(updates.gradient)
    for name in job.model.finite_buffers:
        finite &= finite_rows(updates.buffers[name])
    return finite


_NOT_FINITE = (
    "its update has NaN or Inf in it, so its local training diverged; lower the learning rate, look at its data, or go "
    'on without it: FederatedModule(on_worker_error="drop")'
)
