"""Report of a round for people: losses and metrics per worker, sizes, failures."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from html import escape
from typing import NamedTuple, final

import torch
from torch import Tensor

from lightning_fed.core.means import weighted_mean
from lightning_fed.core.table import aligned, in_html
from lightning_fed.wire.codec import job_bytes, updates_bytes
from lightning_fed.wire.cohort_numbers import CohortNumbers, loss_of
from lightning_fed.wire.contents import Leaves
from lightning_fed.wire.errors import WorkerError
from lightning_fed.wire.job import Job
from lightning_fed.wire.logged import Logged, Part, Shown, merged
from lightning_fed.wire.metric_states import States, merged_rows, merged_states
from lightning_fed.wire.report_text import headline, left_out, rows_of
from lightning_fed.wire.updates import Updates


@final
class WorkerRecord(NamedTuple):
    """Report of one worker.

    Args:
        examples: The number of its training examples; its weight in means.
        metrics: The values that it logged, by name; ``loss`` is among them only if the user's module logs it.
        loss: Its mean loss over the local steps.
    """

    examples: float
    metrics: Mapping[str, float]
    loss: float = math.nan


@final
class Replies(NamedTuple):
    """Replies of a stack of workers, as they came in.

    Args:
        workers: The n names.
        examples: The number of training examples of each, its weight in means; float64 ``[n]``.
        loss: The mean loss over the local steps; float64 ``[n]``.
        metrics: The values that the workers logged; ``{name: float64 [n]}``.
        shown: The display settings of each name, where they are not ``Shown(name)``.
        rates: The learning rates at the start of local training; ``{name: float64 [n]}``.
    """

    workers: tuple[str, ...]
    examples: Tensor
    loss: Tensor
    metrics: Mapping[str, Tensor]
    shown: Mapping[str, Shown] = {}
    rates: Mapping[str, Tensor] = {}

    def without(self, workers: Collection[str]) -> Replies:
        """Return the replies of all but some workers.

        Args:
            workers: Their names.
        """
        keep = torch.tensor([worker not in workers for worker in self.workers], dtype=torch.bool)
        return Replies(
            tuple(worker for worker in self.workers if worker not in workers),
            self.examples[keep],
            self.loss[keep],
            {name: values[keep] for name, values in self.metrics.items()},
            self.shown,
            {name: values[keep] for name, values in self.rates.items()},
        )


@final
@dataclass(eq=False, repr=False)
class RoundReport:
    """Report of the workers of one round.

    Every round needs means, and few rounds the values of a single worker. So numbers stay in stacks, and records are
    built on access.

    Args:
        replies: The replies of the workers that came back.
        order: The order of the workers; empty: as they come.
        failures: The workers that failed.
        dropped: The workers that were absent, or whose update was lost.
        stragglers: The workers that did only a part of their work.
        bytes_down: The bytes sent to the workers.
        bytes_up: The bytes sent back.
        bytes_plain: The bytes that would have been sent back without compression.
        metric_states: The merged states of the workers' torchmetrics objects, as far as they have left the workers.
        leaves: The contents of one worker's messages, tensor by tensor; None: not recorded.
        cohorts: The numbers that cohorts report together, where those of single workers are hidden; then ``replies``
            hold only the workers, and no numbers.
    """

    replies: list[Replies] = field(default_factory=list)
    order: Sequence[str] = ()
    failures: list[WorkerError] = field(default_factory=list)
    dropped: tuple[str, ...] = ()
    stragglers: tuple[str, ...] = ()
    bytes_down: int = 0
    bytes_up: int = 0
    bytes_plain: int = 0
    metric_states: States = field(default_factory=dict)
    leaves: Leaves | None = None
    cohorts: Sequence[CohortNumbers] = ()

    def __repr__(self) -> str:
        """Show a table of the workers."""
        rows = rows_of(self)
        return "\n".join([headline(self), *(aligned(rows) if rows else []), *left_out(self, rows)])

    def _repr_html_(self) -> str:
        rows = rows_of(self)
        lines = "".join(f"<div>{escape(line)}</div>" for line in left_out(self, rows))
        return f"<div>{escape(headline(self))}</div>{in_html(rows)}{lines}"

    def note(self, updates: Updates, job: Job) -> None:
        """Add the replies of some workers."""
        self.replies.append(
            Replies(updates.workers, updates.examples, updates.loss, updates.metrics, updates.shown, updates.rates)
        )
        if updates.metric_states:
            self.metric_states = merged_states(self.metric_states, merged_rows(updates.metric_states))
        if updates.sealed is not None:  # its words and numbers cross by a protocol, see together()
            updates = replace(updates, sealed=updates.sealed.withheld())
        length = sum(updates_bytes(updates, job))
        self.bytes_up += length
        self.bytes_plain += length if updates.codes is None else sum(updates_bytes(replace(updates, codes=None), job))
        if job.of(updates.workers[0]) is job:  # nothing in it is one worker's alone
            self.bytes_down += job_bytes(job) * len(updates.workers)
        else:
            self.bytes_down += sum(job_bytes(job.of(worker)) for worker in updates.workers)

    @staticmethod
    def merged(reports: Sequence[RoundReport], order: Sequence[str] = ()) -> RoundReport:
        """Merge several reports into one.

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
            bytes_plain=sum(report.bytes_plain for report in reports),
            metric_states=reduce(merged_states, [report.metric_states for report in reports], {}),
            leaves=next((report.leaves for report in reports if report.leaves is not None), None),
            cohorts=[cohort for report in reports for cohort in report.cohorts],
        )

    def without(self, failures: Sequence[WorkerError]) -> RoundReport:
        """Return a report in which workers that came back have failed after all.

        Args:
            failures: Their errors.
        """
        if not failures:
            return self
        gone = {failure.worker for failure in failures}
        replies = [reply.without(gone) for reply in self.replies]
        return replace(self, replies=[r for r in replies if r.workers], failures=[*self.failures, *failures])

    @property
    def compression(self) -> float | None:
        """The ratio of the uplink bytes without compression to those with it; None: compression saves nothing."""
        return self.bytes_plain / self.bytes_up if self.bytes_up < self.bytes_plain else None

    def together(self, numbers: CohortNumbers) -> RoundReport:
        """Return a report in which a cohort's numbers take the place of its workers'.

        Args:
            numbers: The numbers that the cohort reports together.
        """
        down, up = self.bytes_down + numbers.bytes_down, self.bytes_up + numbers.bytes_up
        return replace(self, cohorts=[numbers], bytes_down=down, bytes_up=up)

    def __len__(self) -> int:
        """The number of workers that came back."""
        return sum(len(reply.workers) for reply in self.replies)

    @property
    def names(self) -> list[str]:
        """The names of the workers that came back, as they came in."""
        return [worker for reply in self.replies for worker in reply.workers]

    @property
    def workers(self) -> dict[str, WorkerRecord]:
        """A record for each worker that came back, by name; none where only cohorts report."""
        if self.cohorts:
            return {}
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
        if self.cohorts:
            return sum(cohort.examples for cohort in self.cohorts)
        return sum(float(reply.examples.sum()) for reply in self.replies)

    @property
    def loss(self) -> float:
        """The cohort's mean loss, weighted by numbers of examples."""
        if self.cohorts:
            return loss_of(self.cohorts)
        return _mean([(reply.loss, reply.examples) for reply in self.replies])

    @property
    def rates(self) -> dict[str, float]:
        """The mean of each learning rate at the start of local training, by name, over the workers that have it."""
        if self.cohorts:
            return dict(next((cohort.rates for cohort in reversed(self.cohorts) if cohort.rates), {}))
        names = dict.fromkeys(name for reply in self.replies for name in reply.rates)
        there = {name: torch.cat([r.rates[name] for r in self.replies if name in r.rates]) for name in names}
        return {name: float(values.mean()) for name, values in there.items()}

    def means(self) -> dict[str, float]:
        """The means that the cohort logged, by name: see :meth:`logged`."""
        return {name: logged.part.value for name, logged in self.logged().items()}

    def logged(self) -> dict[str, Logged]:
        """The values that the cohort logged, over the workers that logged them: means weighted by numbers of examples.

        A name that was logged with another ``reduce_fx`` is the sum, the minimum or the maximum over the workers.
        """
        if self.cohorts:
            return merged([cohort.logged for cohort in self.cohorts])
        counting = [reply for reply in self.replies if reply.examples.any()]  # others have nothing to say
        table: dict[str, Logged] = {}
        for name in dict.fromkeys(name for reply in counting for name in reply.metrics):
            there = [reply for reply in counting if name in reply.metrics]
            shown = reduce(Shown.merged, [reply.shown.get(name) or Shown(name) for reply in there])
            values, weights = _counting([(reply.metrics[name], reply.examples) for reply in there])
            table[name] = Logged(shown, Part.of(shown.reduction, values, weights))
        return table


def _mean(stacks: Sequence[tuple[Tensor, Tensor]]) -> float:
    """The mean of stacks of values with stacks of weights."""
    return weighted_mean(*_counting(stacks))


def _counting(stacks: Sequence[tuple[Tensor, Tensor]]) -> tuple[list[float], list[float]]:
    """Return values and weights without those of weight 0, whose values may be NaN."""
    values: list[float] = []
    weights: list[float] = []
    for some, theirs in stacks:
        pairs = [(value, weight) for value, weight in zip(some.tolist(), theirs.tolist(), strict=True) if weight]
        values += [value for value, _ in pairs]
        weights += [weight for _, weight in pairs]
    return values, weights
