"""Sums of the sealed numbers of a round: the interface of a session, and sessions that need no keys."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, final

import torch
from torch import Tensor

from lightning_fed.core.processes import Processes
from lightning_fed.secure.attendance import Attendance
from lightning_fed.secure.lengths import Lengths, lengths
from lightning_fed.wire import Job, Updates
from lightning_fed.wire.logged import Shown
from lightning_fed.worker.sealing import Sealing

Begin: TypeAlias = Callable[[Job, Sequence[str]], "SealedSession"]
"""Begins the session of a round, from the job and the workers that will be lost on the way."""


class Total(NamedTuple):
    """Result of a session, the same on every process.

    Args:
        words: The sum of words modulo ``2**bits``; int32 ``[d]``, of which the higher bits are undefined.
        scalars: The sums of single numbers modulo 2⁶⁴ in two's complement, by name.
        stays: The parameters and buffers that did not travel.
        shown: The display settings of logged values, by name.
        lengths: The bytes of the protocol's messages, real or simulated.
        lost: The workers that had numbers and are not in the sum, with the reason of each, by name.
    """

    words: Tensor
    scalars: Mapping[str, int]
    stays: frozenset[str]
    shown: Mapping[str, Shown]
    lengths: Lengths
    lost: Mapping[str, str] = {}


class SealedSession(ABC):
    """One round's sum of sealed numbers."""

    @abstractmethod
    def take(self, updates: Updates) -> None:
        """Add the updates of some workers.

        Args:
            updates: Their updates, of which only the sealed numbers are used.
        """

    @abstractmethod
    def close(self, processes: Processes) -> Total:
        """Compute the sum. Called once, by all processes together.

        Raises:
            AbortError: If the protocol aborts; on all processes.
        """


@dataclass
class Said:
    """Facts about the workers of one process: their names, and the names and meaning of their numbers."""

    workers: list[str] = field(default_factory=list)
    scalars: dict[str, int] = field(default_factory=dict)
    stay: Counter[frozenset[str]] = field(default_factory=Counter)
    shown: Mapping[str, Shown] = field(default_factory=dict)

    def note(self, updates: Updates) -> None:
        """Record the unsealed part of updates, and the names of their single numbers."""
        assert updates.sealed is not None, "the outbox has sealed it"
        self.workers += updates.workers
        self.stay[updates.stays] += len(updates.workers)
        self.shown = _merged(self.shown, updates.shown)
        for name in updates.sealed.scalars:
            self.scalars.setdefault(name, 0)

    @property
    def stays(self) -> frozenset[str]:
        """The parameters and buffers that do not travel, as most workers have them."""
        return self.stay.most_common(1)[0][0] if self.stay else frozenset()

    @staticmethod
    def together(parts: Iterable[Said]) -> Said:
        """Merge the facts of several processes: sums of numbers modulo 2⁶⁴, in two's complement."""
        all_ = Said()
        for part in parts:
            all_.workers += part.workers
            all_.stay += part.stay
            all_.shown = _merged(all_.shown, part.shown)
            for name, number in part.scalars.items():
                all_.scalars[name] = _signed(all_.scalars.get(name, 0) + number)
        return all_


@final
class Keyless(SealedSession):
    """Adds numbers up as they arrive, without keys; it aborts the same rounds as the protocol.

    Args:
        sealing: How numbers were sealed.
        job: The workers' job.
        lost: The workers that take part, but are lost before they send their numbers.
    """

    def __init__(self, sealing: Sealing, job: Job, lost: Sequence[str] = ()) -> None:
        self._sealing = sealing
        self._job = job
        self._lost = lost
        self._said = Said()
        self._words: Tensor | None = None

    def take(self, updates: Updates) -> None:
        said, sealed = self._said, updates.sealed
        assert sealed is not None, "the outbox has sealed it"
        said.note(updates)
        if self._words is None:
            self._words = torch.zeros_like(sealed.words[0])
        for row in sealed.words:
            self._words += row  # modulo 2³²
        for name, numbers in sealed.scalars.items():
            said.scalars[name] = _signed(said.scalars[name] + int(numbers.sum()))

    def close(self, processes: Processes) -> Total:
        job, said = self._job, Said.together(processes.gather(self._said))
        words = torch.zeros(self._sealing.size(job, said.stays), dtype=torch.int64, device=job.model.device)
        if self._words is not None:
            words += self._words
        processes.sum_([words])
        told = self._attend(said, len(words))
        return Total(words.to(torch.int32), said.scalars, said.stays, said.shown, told)

    def _attend(self, said: Said, size: int) -> Lengths:
        """Abort the rounds that the protocol aborts; return the lengths of the messages in others."""
        parameters = self._sealing.parameters
        names = order_of(said.workers, self._lost)
        attendance = Attendance(parameters, session_of(self._job), names)
        able = attendance.share(range(len(names)))
        replied = attendance.send(able & {names.index(name) for name in said.workers})
        attendance.reply(replied)
        return lengths(attendance, (), replied, (size, tuple(said.scalars)), parameters.bits)


def order_of(workers: Iterable[str], lost: Iterable[str]) -> list[str]:
    """Return the order of a roster, which depends on no process and no engine."""
    return sorted({*workers, *lost})


def session_of(job: Job) -> bytes:
    """Return the name of a simulated session. It is the same with keys and without, and so is the graph of masks."""
    return hashlib.sha256(f"{job.seed}/{job.cohort}".encode()).digest()


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def _merged(one: Mapping[str, Shown], other: Mapping[str, Shown]) -> dict[str, Shown]:
    return {**one, **{name: one[name].merged(shown) if name in one else shown for name, shown in other.items()}}
