"""What a round leaves behind for people: losses and metrics per worker, sizes, failures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

from torch import Tensor

from lightning_fed.core.means import weighted_mean
from lightning_fed.wire.codec import job_bytes, updates_bytes
from lightning_fed.wire.errors import WorkerError
from lightning_fed.wire.job import Job
from lightning_fed.wire.updates import Updates


@final
class WorkerRecord(NamedTuple):
    """What one worker reported.

    Args:
        examples: The number of its training examples; its weight in means.
        metrics: What it logged, by name; ``loss`` is not among them unless the user's module logs it.
        loss: Its mean loss over the local steps.
    """

    examples: float
    metrics: Mapping[str, float]
    loss: float = math.nan


@final
class Replies(NamedTuple):
    """What a stack of workers reported, as it came in.

    Args:
        workers: The n names.
        examples: The number of training examples of each, its weight in means; float64 ``[n]``.
        loss: The mean loss over the local steps; float64 ``[n]``.
        metrics: What the workers logged; ``{name: float64 [n]}``.
    """

    workers: tuple[str, ...]
    examples: Tensor
    loss: Tensor
    metrics: Mapping[str, Tensor]


@final
@dataclass(eq=False)
class RoundReport:
    """What the workers of one round reported.

    Every round asks for means, and few for a single worker, so numbers stay in stacks until then: for 100 linear
    workers a dict of records would take a twentieth of the round.

    Args:
        replies: What came back.
        order: The order of the workers; empty: as they come.
        failures: The workers that failed.
        dropped: The workers that were absent, or whose update was lost.
        stragglers: The workers that did only a part of their work.
        bytes_down: What travelled to the workers.
        bytes_up: What travelled back.
    """

    replies: list[Replies] = field(default_factory=list)
    order: Sequence[str] = ()
    failures: list[WorkerError] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    stragglers: tuple[str, ...] = ()
    bytes_down: int = 0
    bytes_up: int = 0

    def note(self, updates: Updates, job: Job) -> None:
        """Write down what came back from some workers."""
        self.replies.append(Replies(updates.workers, updates.examples, updates.loss, updates.metrics))
        self.bytes_up += sum(updates_bytes(updates, job))
        if job.of(updates.workers[0]) is job:  # nothing in it is one worker's alone
            self.bytes_down += job_bytes(job) * len(updates.workers)
        else:
            self.bytes_down += sum(job_bytes(job.of(worker)) for worker in updates.workers)

    @staticmethod
    def merged(reports: Sequence[RoundReport], order: Sequence[str] = ()) -> RoundReport:
        """Make one report of several.

        Args:
            reports: Those of several processes, or of several cohorts.
            order: The order of the workers; empty: as they come.
        """
        if len(reports) == 1:
            return reports[0]
        place = {name: position for position, name in enumerate(order)}
        failures = [failure for report in reports for failure in report.failures]
        return RoundReport(
            replies=[reply for report in reports for reply in report.replies],
            order=order,
            failures=sorted(failures, key=lambda failure: place.get(failure.worker, 0)),
            dropped=tuple(worker for report in reports for worker in report.dropped),
            stragglers=tuple(worker for report in reports for worker in report.stragglers),
            bytes_down=sum(report.bytes_down for report in reports),
            bytes_up=sum(report.bytes_up for report in reports),
        )

    def __len__(self) -> int:
        """The number of workers that came back."""
        return sum(len(reply.workers) for reply in self.replies)

    @property
    def workers(self) -> dict[str, WorkerRecord]:
        """A record for each worker that came back, by name."""
        records: dict[str, WorkerRecord] = {}
        for reply in self.replies:
            metrics = {name: values.tolist() for name, values in reply.metrics.items()}
            rows = zip(reply.workers, reply.examples.tolist(), reply.loss.tolist(), strict=True)
            for row, (worker, examples, loss) in enumerate(rows):
                own = {name: values[row] for name, values in metrics.items()}
                records[worker] = WorkerRecord(examples, own, loss)
        place = {name: position for position, name in enumerate(self.order)}
        return dict(sorted(records.items(), key=lambda item: place.get(item[0], 0)))

    @property
    def examples(self) -> float:
        """The number of training examples of all workers that came back."""
        return sum(float(reply.examples.sum()) for reply in self.replies)

    @property
    def loss(self) -> float:
        """The cohort's mean loss, weighted by numbers of examples."""
        return _mean([(reply.loss, reply.examples) for reply in self.replies])

    def means(self) -> dict[str, float]:
        """The cohort's mean of every metric, weighted by numbers of examples, over the workers that logged it."""
        counting = [reply for reply in self.replies if reply.examples.any()]  # others have nothing to say
        names = dict.fromkeys(name for reply in counting for name in reply.metrics)
        return {name: _mean([(r.metrics[name], r.examples) for r in counting if name in r.metrics]) for name in names}


def _mean(stacks: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The mean of stacks of values with stacks of weights; a value that weighs nothing may be NaN."""
    values: list[float] = []
    weights: list[float] = []
    for some, theirs in stacks:
        pairs = [(value, weight) for value, weight in zip(some.tolist(), theirs.tolist(), strict=True) if weight]
        values += [value for value, _ in pairs]
        weights += [weight for _, weight in pairs]
    return weighted_mean(values, weights)
