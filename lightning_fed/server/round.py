"""One round, read top to bottom: broadcast, train locally, aggregate."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, final

import torch

from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm, Result
from lightning_fed.core.processes import Processes
from lightning_fed.core.rng import isolated
from lightning_fed.core.shown import Shown
from lightning_fed.core.stopwatch import Stopwatch
from lightning_fed.core.tree import Tensors
from lightning_fed.core.watch import counting_signals
from lightning_fed.engines import Engine
from lightning_fed.secure import AbortError
from lightning_fed.selection import Availability, Response
from lightning_fed.selection.availability import asked
from lightning_fed.server.cohort_progress import CohortProgress
from lightning_fed.server.drift import Drift, DriftMeter
from lightning_fed.server.late_buffers import LateBuffers
from lightning_fed.server.memory import Memory
from lightning_fed.server.processes import sizes_of
from lightning_fed.server.traffic import Traffic, planned
from lightning_fed.wire import Aggregate, Job, RoundError, Updates, WorkerError
from lightning_fed.wire.codec import job_bytes
from lightning_fed.wire.cohort_numbers import CohortNumbers
from lightning_fed.wire.contents import Leaves
from lightning_fed.wire.report import RoundReport
from lightning_fed.worker.outbox import Outbox

_log = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """Outcome of one round.

    Args:
        aggregate: The pseudo-gradient and the new buffers.
        report: The report of the workers.
        server: The server state of algorithm and aggregator after the round.
        succeeded: Whether workers keep the own state that they staged.
        local_seconds: The time for which this process has waited for its workers, in seconds.
        planned: The planned traffic of one worker; only under a promise.
        drift: The drift of the workers, if it was measured and an update arrived.
    """

    aggregate: Aggregate
    report: RoundReport
    server: Tensors
    succeeded: bool = False
    local_seconds: float = 0.0
    planned: Traffic = Traffic()
    drift: Drift | None = None


@final
@dataclass(frozen=True, repr=False)
class FederatedLoop(Shown):
    """Runs rounds: trains a cohort's workers locally and aggregates their updates.

    Args:
        algorithm: The algorithm of the run.
        engine: The engine that trains the workers.
        aggregator: The aggregator of their updates.
        processes: The processes that share a cohort.
        num_examples: Returns a worker's number of training examples, to divide a cohort evenly.
        outbox: The steps between local training and what the engine yields, and their mirror images at the server.
        on_worker_error: ``"raise"`` ends the run when a worker fails; ``"drop"`` goes on without it.
        min_workers: The number of workers below which a round fails even with ``"drop"``.
        availability: Decides whether and how much a selected worker trains; None: all train fully.
        tell_prepared: Shares the names of prepared workers among the processes; called by all of them together.
        progress: Counts finished workers while a round runs.
    """

    algorithm: Algorithm
    engine: Engine
    aggregator: Aggregator[Any]
    processes: Processes
    num_examples: Callable[[str], int]
    outbox: Outbox
    on_worker_error: Literal["raise", "drop"] = "raise"
    min_workers: int = 1
    availability: Availability | None = None
    tell_prepared: Callable[[], None] | None = None
    progress: CohortProgress = field(default_factory=CohortProgress)

    def run(
        self,
        job: Job,
        cohort: Sequence[str],
        server: Tensors | None = None,
        look: Callable[[Updates | None, Job], Leaves | None] | None = None,
        measures: bool = False,
    ) -> Outcome:
        """Run one round. The global model is only read: the server optimizer applies the aggregate.

        Args:
            job: The global model and how long each worker trains.
            cohort: The names of the workers.
            server: The server state of algorithm and aggregator; read only.
            look: Looks into the messages of one worker, for the report: before any has come, and if there is nothing to
                say yet, when the first one has.
            measures: Whether to measure the drift of the workers.

        Returns:
            The aggregate and the new server state, the same on every process, and the report of all workers.

        Raises:
            WorkerError: If a worker failed and ``on_worker_error="raise"``.
            RoundError: If fewer than ``min_workers`` workers are left.
        """
        memory = Memory.of(server or {}, job.model.device)
        report = RoundReport()
        late = LateBuffers(job.model, job.round)
        job = self.algorithm.assign(job, memory.algorithm)
        plan = Traffic() if self.outbox.promise is None else planned(job, self.outbox.compression, self.outbox.sealing)
        if look is not None:
            report.leaves = look(None, job)
        job, present, responses = self._ask(job, cohort)
        watch, meter = Stopwatch(), DriftMeter(job.model) if measures else None
        try:
            self.outbox.own.begin(job.cohort, job.last, job.failed)
            with isolated(), torch.no_grad(), counting_signals():
                share = self._share(job, present)
                aggregator = self.aggregator.of_round(job, memory.aggregator)
                aggregator.expect_to_lose(_lost(responses))
                self.progress.begin(len(share), self.algorithm.trainings)
                results = watch.over(self.algorithm.visit(self.engine.run, job, share))
                partial = aggregator.fold(self._accepted(results, job, report, late, look, meter), job)
        except Exception as error:
            self.processes.fail(error)
        # From here on all processes act alike: each knows what happened on the others, and none waits for one that
        # has left.
        heard = self.processes.gather((report, None if meter is None else meter.norms))
        report = self._heard(RoundReport.merged([theirs for theirs, _ in heard], cohort), job, responses)
        self._tell_prepared()
        if not self._has_quorum(report, job) and not aggregator.always:
            return self._given_up(job, report, memory, watch, plan)
        with torch.no_grad():
            try:
                aggregate = aggregator.finish(partial, self.processes)
            except AbortError as error:  # on all processes alike
                report = self._without(report, error.lost, job)
                self._has_quorum(report, job)  # where workers are not to fail, it is they that are told of
                _log.warning("round %d: %s; it changes nothing", job.round, error)
                return self._given_up(job, report, memory, watch, plan)
            if aggregate.numbers is not None:
                report = self._without(report, aggregate.numbers.lost, job)
                report = report.together(aggregate.numbers)
                if not self._has_quorum(report, job) and not aggregator.always:
                    return self._given_up(job, report, memory, watch, plan)
            drift = self._drift(meter, aggregate, [norms for _, norms in heard])
            aggregator.remember(aggregate, memory.aggregator)
            aggregate = late.finish(aggregate, aggregator, self.processes)
            aggregate = self.outbox.at_server(aggregate, job)
            self.outbox.own.exchange(self.processes)
            aggregate = self.algorithm.conclude(aggregate, job, memory.algorithm, aggregator.count(len(report)))
        return Outcome(aggregate, report, memory.tensors, True, watch.seconds, plan, drift)

    def _without(self, report: RoundReport, lost: Mapping[str, str], job: Job) -> RoundReport:
        """Record workers as failed that had trained, but were lost before the sum."""
        failures = [WorkerError(worker, job.round, reason) for worker, reason in lost.items()]
        for failure in failures:
            self.engine.refuse(failure.worker, job.cohort)
            if self.on_worker_error == "drop":
                _log.warning("%s; the sum is without it", failure)
        return report.without(failures)

    def _given_up(self, job: Job, report: RoundReport, memory: Memory, watch: Stopwatch, plan: Traffic) -> Outcome:
        """Return the outcome of a round that changes nothing."""
        self.outbox.own.drop(job.cohort)
        if self.outbox.sealing is not None and not report.cohorts:  # nobody has seen what single workers report
            report = replace(report, cohorts=[CohortNumbers(0.0, 0.0, math.nan)])
        nothing = Aggregate.nothing(job.model)
        return Outcome(nothing, report, memory.tensors, local_seconds=watch.seconds, planned=plan)

    def _ask(self, job: Job, cohort: Sequence[str]) -> tuple[Job, Sequence[str], dict[str, Response]]:
        """Ask each worker whether it takes part.

        Returns:
            The job with every straggler's share of work, the workers that will reply, and all responses.
        """
        if self.availability is None:
            return job, cohort, {}
        responses = {worker: asked(self.availability, worker, job.cohort, job.seed) for worker in cohort}
        present = [worker for worker, response in responses.items() if response.outcome == "replies"]
        work = {worker: responses[worker].work for worker in present if responses[worker].work < 1}
        return replace(job, work=work), present, responses

    def _heard(self, report: RoundReport, job: Job, responses: Mapping[str, Response]) -> RoundReport:
        lost = _lost(responses)
        return replace(
            report,
            dropped=tuple(worker for worker, response in responses.items() if response.outcome != "replies"),
            stragglers=tuple(job.work),
            bytes_down=report.bytes_down + sum(job_bytes(job.of(worker)) for worker in lost),
        )

    def _share(self, job: Job, cohort: Sequence[str]) -> Sequence[str]:
        if self.processes.size == 1:
            return cohort
        if not self.algorithm.divisible:
            return cohort if self.processes.rank == 0 else ()
        sizes = [0] * len(cohort)
        if job.local.steps is None:  # what is wrong with a worker's data is told where it is trained
            sizes, _ = sizes_of(cohort, self.num_examples, self.processes, job.round)
            self._tell_prepared()
        return self.processes.share(cohort, {n: work(job, n, size) for n, size in zip(cohort, sizes, strict=True)})

    def _tell_prepared(self) -> None:
        if self.tell_prepared is not None:
            self.tell_prepared()

    def _accepted(
        self,
        results: Iterable[Result],
        job: Job,
        report: RoundReport,
        late: LateBuffers,
        look: Callable[[Updates | None, Job], Leaves | None] | None,
        meter: DriftMeter | None,
    ) -> Iterator[Updates]:
        """Pass on updates as they arrive, and record all results; stop at the first error if it ends the run."""
        for result in late.sift(results):
            if isinstance(result, WorkerError):
                report.failures.append(result)
                self.outbox.own.forget(result.worker)
                self.engine.refuse(result.worker, job.cohort)
                report.bytes_down += job_bytes(job.of(result.worker))
                if self.on_worker_error == "raise":
                    return
                _log.warning("%s; the round goes on without it", result)
            self.progress.arrived(len(result.workers) if isinstance(result, Updates) else 1)
            if isinstance(result, Updates):
                report.note(result, job)
                if look is not None and report.leaves is None:
                    report.leaves = look(result, job)
                if meter is not None:
                    meter.take(result)
                yield late.take(result)
            del result

    def _drift(
        self, meter: DriftMeter | None, aggregate: Aggregate, norms: Sequence[Sequence[float] | None]
    ) -> Drift | None:
        """Return the drift over all processes; None unless all have measured, as the computation needs all of them."""
        measured = [theirs for theirs in norms if theirs is not None]
        if meter is None or len(measured) < len(norms):
            return None
        return meter.drift(aggregate, [norm for theirs in measured for norm in theirs], self.processes)

    def _has_quorum(self, report: RoundReport, job: Job) -> bool:
        """Whether at least ``min_workers`` replied.

        If workers were absent, or the sampled cohort is empty, a missed quorum is no error: the round is dropped and
        changes nothing, as on a deployed server.

        Raises:
            WorkerError: If a worker failed and ``on_worker_error="raise"``.
            RoundError: If the quorum is missed only because workers failed.
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


def _lost(responses: Mapping[str, Response]) -> list[str]:
    """Return the workers that begin a round, but whose answer is lost."""
    return [worker for worker, response in responses.items() if response.outcome == "lost"]


def work(job: Job, worker: str, examples: int) -> float:
    """Return the relative cost of one worker's training, to divide a cohort evenly.

    Args:
        job: The job, with the length of training.
        worker: Its name.
        examples: The number of its examples.
    """
    size = job.local.epochs * examples if job.local.steps is None else job.local.steps
    return size * job.work.get(worker, 1.0)
