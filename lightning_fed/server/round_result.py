"""Result of a round: its report, its aggregate, and the global buffers after a server step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial, reduce
from typing import final

import torch

from lightning_fed.core.tree import Tensors
from lightning_fed.server.distributions import by_metric
from lightning_fed.server.round import Outcome
from lightning_fed.server.traffic import Traffic
from lightning_fed.wire import Aggregate
from lightning_fed.wire.logged import Logged, merged
from lightning_fed.wire.report import RoundReport


@final
@dataclass(frozen=True)
class Round:
    """A round that has been run.

    Args:
        cohort: The number of its cohort.
        outcome: Its outcome.
        report: The report of its workers, as far as it may be shown.
        seconds: Its duration.
        asked: The names of its cohort, as far as they may be shown.
        traffic: The traffic; where that is hidden, the planned traffic.
        took_part: The positions of the workers that have sent an update, as far as it may be shown.
    """

    cohort: int
    outcome: Outcome
    report: RoundReport
    seconds: float
    asked: Sequence[str] = ()
    traffic: Traffic = field(default_factory=Traffic)
    took_part: Sequence[int] = ()

    @property
    def aggregate(self) -> Aggregate:
        """The pseudo-gradient and the new buffers."""
        return self.outcome.aggregate

    @cached_property
    def logged(self) -> dict[str, Logged]:
        """The values that the cohort logged, by name."""
        return self.report.logged()

    @cached_property
    def loss(self) -> float:
        """The cohort's mean loss."""
        return self.report.loss

    @cached_property
    def examples(self) -> float:
        """The number of training examples of all workers that came back."""
        return self.report.examples


@final
class StepResult:
    """Result of a server step: of its one cohort, or of several whose gradients were accumulated.

    Args:
        rounds: The round of each cohort.
    """

    def __init__(self, rounds: Sequence[Round]) -> None:
        self.rounds = rounds
        self.report = RoundReport.merged([r.report for r in rounds])
        """Reports of the workers."""
        self.table = lru_cache(maxsize=1)(partial(_table, self.report))
        """Returns what single workers logged, as ``{metric: {worker: value}}``. It holds nothing but the report."""

    @cached_property
    def logged(self) -> dict[str, Logged]:
        """The values that the workers logged, by name."""
        return self.rounds[0].logged if len(self.rounds) == 1 else merged([r.logged for r in self.rounds])

    @property
    def loss(self) -> float:
        """The mean loss."""
        return self.rounds[0].loss if len(self.rounds) == 1 else self.report.loss

    @property
    def examples(self) -> float:
        """The number of training examples of all workers that came back."""
        return sum(r.examples for r in self.rounds)

    @property
    def seconds(self) -> float:
        """The duration in seconds."""
        return sum(r.seconds for r in self.rounds)

    @property
    def traffic(self) -> Traffic:
        """The traffic; where that is hidden, the planned traffic."""
        return reduce(Traffic.plus, [r.traffic for r in self.rounds])

    @property
    def metrics(self) -> list[str]:
        """The names of single workers' values: their logged names, or ``loss`` for workers that log nothing."""
        if not self.examples or self.report.cohorts:
            return []
        silent = not self.logged or any(not r.metrics and bool(r.examples.any()) for r in self.report.replies)
        return list(dict.fromkeys([*self.logged, "loss"] if silent else self.logged))


def workers_of(report: RoundReport) -> dict[str, Mapping[str, float]]:
    """Return the logged values of each worker with examples, or its loss if it logged nothing.

    Args:
        report: The report of a round.
    """
    records = ((worker, record) for worker, record in report.workers.items() if record.examples)
    return {worker: record.metrics or {"loss": record.loss} for worker, record in records}


def _table(report: RoundReport) -> dict[str, dict[str, float]]:
    return by_metric(workers_of(report))


def merged_buffers(rounds: Sequence[Round]) -> Tensors:
    """The global buffers after a server step: those of its one cohort, or the mean over accumulated cohorts.

    Weights are numbers of examples; integer buffers take the maximum.
    """
    weights = [r.examples for r in rounds]
    newest = rounds[-1].aggregate.buffers
    if len(rounds) == 1 or not any(weights):
        return newest
    merged: Tensors = {}
    for name, last in newest.items():
        there = [
            (r.aggregate.buffers[name], w) for r, w in zip(rounds, weights, strict=True) if name in r.aggregate.buffers
        ]
        alike = [(buffer, weight) for buffer, weight in there if buffer.shape == last.shape]
        stack, own = torch.stack([buffer for buffer, _ in alike]), torch.tensor([weight for _, weight in alike])
        if last.is_floating_point() or last.is_complex():
            merged[name] = torch.tensordot(own.to(stack), stack, dims=1) / float(own.sum())
        else:
            merged[name] = stack.amax(dim=0)
    return merged
