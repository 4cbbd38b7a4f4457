"""The aggregator of secure aggregation: it adds up sealed numbers, and passes the sum to another aggregator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, final

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.secure import scalars
from lightning_fed.server.sealed_sessions import Begin, SealedSession, Total
from lightning_fed.wire import Aggregate, Job, Updates
from lightning_fed.wire.cohort_numbers import CohortNumbers
from lightning_fed.wire.logged import Logged, Part, Shown
from lightning_fed.worker import sealing as names
from lightning_fed.worker.sealing import Sealing


class SealedSums(NamedTuple):
    """Partial sum of one process in a round."""

    job: Job
    session: SealedSession


@final
class SecureSum(Aggregator[SealedSums]):
    """Adds up sealed numbers modulo a power of two, and passes the opened sum to the aggregator of the run.

    Args:
        inner: The run's own aggregator, which needs only a sum.
        sealing: The sealing of the numbers.
        begin: Begins the session of a round.
    """

    def __init__(self, inner: Aggregator[Any], sealing: Sealing, begin: Begin) -> None:
        self.always = inner.always
        self._inner = inner
        self._sealing = sealing
        self._begin = begin
        self._lost: tuple[str, ...] = ()

    def of_round(self, job: Job, server: Tensors) -> SecureSum:
        return SecureSum(self._inner.of_round(job, server), self._sealing, self._begin)

    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        self._inner.remember(aggregate, server)

    def count(self, replies: int) -> float:
        return self._inner.count(replies)

    def expect_to_lose(self, workers: Sequence[str]) -> None:
        self._lost = tuple(workers)

    def fold(self, updates: Iterable[Updates], job: Job) -> SealedSums:
        session = self._begin(job, self._lost)
        for update in updates:
            session.take(update)
            del update  # see outbox.py
        return SealedSums(job, session)

    def finish(self, partial: SealedSums, processes: Processes) -> Aggregate:
        job, total = partial.job, partial.session.close(processes)
        numbers = {name: scalars.decode(number) for name, number in total.scalars.items()}
        summed = self._sealing.opened(total.words, numbers, job, total.stays)
        own = self._inner.of_sum(summed, job) if processes.rank == 0 else self._inner.fold((), job)
        aggregate = self._inner.finish(own, processes)
        return replace(aggregate, numbers=_reported(numbers, total))


def _reported(numbers: Mapping[str, float], total: Total) -> CohortNumbers:
    def mean(name: str) -> float:
        weight = numbers.get(names.WEIGHT_OF + name, 0.0)
        return numbers[name] / weight if weight else math.nan

    logged = {}
    for key in numbers:
        if key.startswith(names.METRIC):
            name, weight = key.removeprefix(names.METRIC), numbers[names.WEIGHT_OF + key]
            logged[name] = Logged(total.shown.get(name, Shown(name)), Part("mean", mean(key), weight))
    rates = {key.removeprefix(names.RATE): mean(key) for key in numbers if key.startswith(names.RATE)}
    workers = numbers.get(names.WORKERS, 0.0)
    return CohortNumbers(
        examples=numbers.get(names.EXAMPLES, 0.0),
        weight=numbers.get(names.WEIGHT_OF + names.LOSS, 0.0),
        loss=mean(names.LOSS) if names.LOSS in numbers else math.nan,
        logged=logged,
        rates=rates,
        within=numbers.get(names.WITHIN, 0.0) / workers if workers else 1.0,
        left_out=round(numbers.get(names.LEFT_OUT, 0.0)),
        lost=total.lost,
        bytes_down=total.lengths.down,
        bytes_up=total.lengths.up,
        protocol_bytes_up=total.lengths.up - total.lengths.vectors,
    )
