"""The aggregator of secure aggregation: it adds up what workers have sealed, and hands the sum to another."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed.aggregation import Aggregator
from lightning_fed.core.processes import Processes
from lightning_fed.secure import scalars
from lightning_fed.secure.attendance import Attendance
from lightning_fed.wire import Aggregate, Job, Updates
from lightning_fed.wire.cohort_numbers import CohortNumbers
from lightning_fed.wire.logged import Logged, Part, Shown
from lightning_fed.worker import sealing as names
from lightning_fed.worker.sealing import Sealing


@dataclass
class Said:
    """What is known of the workers of one process: the sums of their single numbers, and who they are."""

    scalars: dict[str, int] = field(default_factory=dict)
    workers: list[str] = field(default_factory=list)
    stays: frozenset[str] = frozenset()
    shown: Mapping[str, Shown] = field(default_factory=dict)


@dataclass
class SealedSums:
    """Sums of sealed numbers over the workers of one process."""

    job: Job
    said: Said
    words: Tensor | None = None


@final
class SecureSum(Aggregator[SealedSums]):
    """Adds up sealed numbers modulo a power of two, and gives what they say to the aggregator of the run.

    In this mode no keys are exchanged: the sum is the one that the protocol comes to, and so are the rounds that it
    gives up.

    Args:
        inner: The run's own aggregator, which needs no more than a sum.
        sealing: How numbers were sealed.

    Raises:
        ValueError: If ``inner`` needs each worker's update.
    """

    def __init__(self, inner: Aggregator[Any], sealing: Sealing) -> None:
        inner.of_sum  # noqa: B018
        self.always = inner.always
        self._inner = inner
        self._sealing = sealing
        self._asked: tuple[str, ...] = ()

    def count(self, replies: int) -> float:
        return self._inner.count(replies)

    def expect(self, workers: Sequence[str]) -> None:
        self._asked = tuple(workers)

    def fold(self, updates: Iterable[Updates], job: Job) -> SealedSums:
        sums = SealedSums(job, said := Said())
        for update in updates:
            sealed = update.sealed
            assert sealed is not None, "the outbox has sealed it"
            if sums.words is None:
                sums.words, said.stays = torch.zeros_like(sealed.words[0]), update.stays
            for row in sealed.words:
                sums.words += row  # modulo 2³²
            for name, numbers in sealed.scalars.items():
                said.scalars[name] = said.scalars.get(name, 0) + int(numbers.sum())
            said.workers += update.workers
            said.shown = _merged(said.shown, update.shown)
            del update, sealed  # see outbox.py
        return sums

    def finish(self, partial: SealedSums, processes: Processes) -> Aggregate:
        job, parts = partial.job, processes.gather(partial.said)
        stays = next((part.stays for part in parts if part.workers), frozenset())
        size = self._sealing.size(job, stays)
        words = torch.zeros(size, dtype=torch.int64, device=job.model.device)
        if partial.words is not None:
            words += partial.words
        processes.sum_([words])
        self._attend([name for part in parts for name in part.workers], job)
        numbers = _added([part.scalars for part in parts])
        total = self._sealing.opened(words.to(torch.int32), _as_tensors(numbers), job, stays)
        own = self._inner.of_sum(total, job) if processes.rank == 0 else self._inner.fold((), job)
        aggregate = self._inner.finish(own, processes)
        shown: Mapping[str, Shown] = {}
        for part in parts:
            shown = _merged(shown, part.shown)
        decoded = {name: scalars.decode(torch.tensor(number)) for name, number in numbers.items()}
        return replace(aggregate, numbers=_reported(decoded, shown))

    def _attend(self, survivors: Sequence[str], job: Job) -> None:
        """Give up the rounds that the protocol gives up."""
        session = hashlib.sha256(f"{job.seed}/{job.cohort}".encode()).digest()
        asked = self._asked or tuple(survivors)
        secure = self._sealing.settings
        attendance = Attendance(secure.parameters(self._sealing.cohort, 0), session, asked)
        able = attendance.share(range(len(asked)))
        there = able & {asked.index(name) for name in survivors}
        attendance.reply(attendance.send(there))


def _added(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """Sums modulo 2⁶⁴, in two's complement."""
    total: dict[str, int] = {}
    for part in parts:
        for name, number in part.items():
            total[name] = (total.get(name, 0) + number + 2**63) % 2**64 - 2**63
    return total


def _as_tensors(numbers: Mapping[str, int]) -> dict[str, Tensor]:
    return {name: torch.tensor(number) for name, number in numbers.items()}


def _merged(one: Mapping[str, Shown], other: Mapping[str, Shown]) -> dict[str, Shown]:
    return {**one, **{name: one[name].merged(shown) if name in one else shown for name, shown in other.items()}}


def _reported(numbers: Mapping[str, float], shown: Mapping[str, Shown]) -> CohortNumbers:
    def mean(name: str) -> float:
        weight = numbers.get(names.WEIGHT_OF + name, 0.0)
        return numbers[name] / weight if weight else math.nan

    logged = {}
    for key in numbers:
        if key.startswith(names.METRIC):
            name, weight = key.removeprefix(names.METRIC), numbers[names.WEIGHT_OF + key]
            logged[name] = Logged(shown.get(name, Shown(name)), Part("mean", mean(key), weight))
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
    )
