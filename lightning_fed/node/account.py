"""A node's own account of what its workers have released, on its own disk.

A server keeps an account of its run. A node that does not trust the server keeps its own, over all runs on the node:
one file for each worker, one line for each training, written and synced to disk *before* the training begins. So no
more is released than is counted, even after a power failure. A training that fails, or whose result never arrives, is
counted, too.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

from lightning_fed.core.shown import Shown
from lightning_fed.node.file_names import name_of_file
from lightning_fed.privacy import Accountant, Mechanism
from lightning_fed.privacy.accounting import KINDS, check_delta
from lightning_fed.privacy.accounting.storage import UndefinedMechanismError, restored, stored
from lightning_fed.privacy.ledger import now

Unit: TypeAlias = Literal["worker", "example"]
"""Unit that a guarantee hides: all that a worker sends, or one of its examples."""

VERSION = 1
_ENDING = ".jsonl"
_RDP_IS_NO_MORE_THAN = 4.0


@final
@dataclass(frozen=True)
class Charge:
    """Privacy cost of a training.

    Args:
        mechanism: The mechanism of its release; None: an update without noise of its own.
        releases: The number of releases.
        unit: The unit that the mechanism hides.
    """

    mechanism: Mechanism | None
    releases: int = 1
    unit: Unit = "worker"


@final
@dataclass
class WorkerAccount:
    """The account of one worker: all of its trainings.

    Args:
        worker: Its name.
        counts: The number of times that each charge was made.
        damaged: The number of lines that cannot be read. Each counts as a training with the largest cost among the
            others: a half-written line was a charge, but its content is lost.
    """

    worker: str
    counts: dict[Charge, int] = field(default_factory=dict)
    damaged: int = 0

    @property
    def rounds(self) -> int:
        """The number of trainings."""
        return sum(self.counts.values()) + self.damaged

    @property
    def unit(self) -> Unit:
        """The largest unit for which all trainings have a guarantee."""
        return "example" if any(charge.unit == "example" for charge in self.counts) else "worker"

    def epsilon(self, delta: float, unit: Unit | None = None) -> float:
        """Return the ε of all trainings together, by the tightest accountant that counts them.

        Args:
            delta: δ.
            unit: The hidden unit; None: :attr:`unit`.

        Returns:
            ε; infinity after a training whose update had no noise of its own, and for a worker where single examples
            were hidden.

        Raises:
            ValueError: If the trainings cannot be added up.
        """
        delta = check_delta(delta)
        if not self.rounds:
            return 0.0
        history = self._history(unit or self.unit, delta)
        return math.inf if history is None else _epsilon(history, delta)

    def keeps_within(self, epsilon: float, delta: float, unit: Unit | None = None) -> bool:
        """Whether all trainings together keep within an ε.

        Args:
            epsilon: ε.
            delta: δ.
            unit: As for :meth:`epsilon`.

        Raises:
            ValueError: As :meth:`epsilon` does.
        """
        if not self.rounds:
            return True
        history = self._history(unit or self.unit, check_delta(delta))
        return history is not None and _is_within(history, epsilon, delta)

    def after(self, charge: Charge) -> WorkerAccount:
        """Return the account after another training; this account is not changed.

        Args:
            charge: The cost of that training.
        """
        return WorkerAccount(self.worker, {**self.counts, charge: self.counts.get(charge, 0) + 1}, damaged=self.damaged)

    def _history(self, unit: Unit, delta: float) -> dict[Mechanism, int] | None:
        """Return the mechanisms with their numbers of releases; None if nothing is hidden."""
        counts = dict(self.counts)
        if self.damaged:
            if not counts:
                return None
            dearest = max(counts, key=lambda charge: _cost(charge, delta))
            counts[dearest] += self.damaged
        history: dict[Mechanism, int] = {}
        for charge, count in counts.items():
            # What hides a worker hides its examples, and not the other way round.
            if charge.mechanism is None or (unit == "worker" and charge.unit != "worker"):
                return None
            history[charge.mechanism] = history.get(charge.mechanism, 0) + charge.releases * count
        return history


@final
class NodeAccount(Shown):
    """The accounts of a node's workers, in a folder of the node. Several processes may use the folder at a time.

    Args:
        folder: The folder; the first charge creates it.

    >>> import tempfile
    >>> from lightning_fed.privacy import LocalGaussian
    >>> account = NodeAccount(tempfile.mkdtemp())
    >>> account.charge("bob", LocalGaussian(4.0), releases=1, run="a1", cohort=0)
    >>> account.rounds("bob"), round(account.epsilon("bob", delta=1e-5), 2)
    (1, 1.99)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._read: dict[str, _Lines] = {}

    @property
    def workers(self) -> tuple[str, ...]:
        """The names of all workers with a charge."""
        names = set()
        for path in self.folder.glob(f"*{_ENDING}"):
            with path.open("rb") as file:
                for line in file:
                    with suppress(ValueError, TypeError, KeyError):
                        names.add(str(json.loads(line)["worker"]))
                        break
        return tuple(sorted(names))

    def of(self, worker: str) -> WorkerAccount:
        """Return the account of one worker.

        Args:
            worker: Its name.

        Raises:
            OSError: If its file cannot be read.
            ValueError: If a newer lightning_fed wrote it, or it counts releases of a mechanism that this program does
                not define.
        """
        try:
            descriptor = os.open(self.path(worker), os.O_RDONLY)
        except FileNotFoundError:
            return WorkerAccount(worker)
        with _locked(descriptor, fcntl.LOCK_SH):
            return self._lines(worker, descriptor).account()

    def rounds(self, worker: str) -> int:
        """Return the number of a worker's trainings.

        Args:
            worker: Its name.
        """
        return self.of(worker).rounds

    def epsilon(self, worker: str, delta: float, unit: Unit | None = None) -> float:
        """Return the ε of all of a worker's trainings; see ``WorkerAccount.epsilon``.

        Args:
            worker: Its name.
            delta: δ.
            unit: What is hidden.
        """
        return self.of(worker).epsilon(delta, unit)

    def affords(
        self,
        worker: str,
        mechanism: Mechanism | None,
        releases: int,
        epsilon: float,
        delta: float,
        unit: Unit = "worker",
    ) -> bool:
        """Whether another training keeps a worker within an ε. The account is not changed.

        Args:
            worker: Its name.
            mechanism: What the training would release.
            releases: How often.
            epsilon: ε.
            delta: δ.
            unit: What is hidden.
        """
        return self.of(worker).after(Charge(mechanism, releases, unit)).keeps_within(epsilon, delta, unit)

    def charge(
        self,
        worker: str,
        mechanism: Mechanism | None,
        releases: int,
        run: str,
        cohort: int,
        *,
        unit: Unit = "worker",
        check: Callable[[WorkerAccount], object] | None = None,
    ) -> None:
        """Record a training that is about to begin. If the record fails, nothing of the training may leave.

        A cohort that is trained again, because its reply was lost, is charged again: its noise is fresh.

        Args:
            worker: The name of the worker.
            mechanism: What the training releases; None: an update without noise of its own.
            releases: How often.
            run: The name of the run.
            cohort: The number of the cohort.
            unit: What the mechanism hides.
            check: Raises if the current account does not allow the training; no other process charges meanwhile.

        Raises:
            OSError: If the line cannot be written; the message contains the fix.
            ValueError: As :meth:`of` does.
        """
        charge = Charge(mechanism, releases, unit)
        path = self.path(worker)
        line = {
            "version": VERSION,
            "time": now(),
            "worker": worker,
            "run": run,
            "cohort": cohort,
            "unit": unit,
            "releases": releases,
            **({"mechanism": None} if mechanism is None else stored(mechanism)),
        }
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            is_new = not path.exists()
            descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
            with _locked(descriptor, fcntl.LOCK_EX):
                lines = self._lines(worker, descriptor)
                if check is not None:
                    check(lines.account())
                lines.add(charge, json.dumps(line).encode() + b"\n", descriptor)
                if is_new:
                    _force_names(self.folder)
        except OSError as error:
            raise OSError(
                f"the node's account {path} cannot be written ({error}), and nothing is trained that is not in it; "
                "make room on the node's disk, and let the node write there"
            ) from error

    def path(self, worker: str) -> Path:
        """Return the file of a worker.

        Args:
            worker: Its name, which need not be a valid file name.
        """
        return self.folder / f"{name_of_file(worker)}{_ENDING}"

    def _lines(self, worker: str, descriptor: int) -> _Lines:
        lines = self._read.setdefault(worker, _Lines(worker, self.path(worker)))
        try:
            lines.catch_up(descriptor)
        except BaseException:
            del self._read[worker]  # it may have read the half of it
            raise
        return lines


@final
class _Lines:
    """The lines of a worker's file. Lines that were appended since the last access are read at the next one."""

    def __init__(self, worker: str, path: Path) -> None:
        self._path = path
        self._whole = WorkerAccount(worker)
        self._file: tuple[int, int] | None = None
        self._end = 0  # that of the last line with an end
        self._rest = b""  # what stands behind it: a line that was not written to its end

    def account(self) -> WorkerAccount:
        whole = self._whole
        account = WorkerAccount(whole.worker, dict(whole.counts), whole.damaged)
        if self._rest.strip():
            self._count(self._rest, account)
        return account

    def catch_up(self, descriptor: int) -> None:
        found = os.fstat(descriptor)
        if (found.st_dev, found.st_ino) != self._file or found.st_size < self._end:
            self._file = (found.st_dev, found.st_ino)
            self._whole, self._end = WorkerAccount(self._whole.worker), 0
        *lines, self._rest = _bytes_from(descriptor, self._end).split(b"\n")
        for line in lines:
            if line.strip():
                self._count(line, self._whole)
        self._end += sum(len(line) + 1 for line in lines)

    def add(self, charge: Charge, line: bytes, descriptor: int) -> None:
        """Append a line and sync it to disk."""
        before = os.fstat(descriptor).st_size
        written = b"\n" + line if self._rest else line
        try:
            left = memoryview(written)
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):  # else half a line stays, which counts
                os.ftruncate(descriptor, before)
                os.fsync(descriptor)
            raise
        self.catch_up(descriptor)

    def _count(self, line: bytes, account: WorkerAccount) -> None:
        try:
            charge = _charge_of(json.loads(line))
        except UndefinedMechanismError as error:
            raise ValueError(f"the node's account {self._path}: {error}") from error
        except _NewerError as error:
            raise ValueError(
                f"the node's account {self._path} was written by a newer lightning_fed ({error}, and this one writes "
                f"{VERSION}); upgrade it"
            ) from error
        except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
            account.damaged += 1
        else:
            account.counts[charge] = account.counts.get(charge, 0) + 1


class _NewerError(Exception):
    """A line of a newer format than this version reads."""


def _charge_of(line: dict[str, Any]) -> Charge:
    version, releases, unit = line["version"], line["releases"], line["unit"]
    if type(version) is int and version > VERSION:
        raise _NewerError(f"format {version}")
    if type(releases) is not int or releases < 1 or unit not in ("worker", "example"):
        raise ValueError("no charge")
    return Charge(None if line["mechanism"] is None else restored(line), releases, unit)


def _bytes_from(descriptor: int, offset: int) -> bytes:
    parts = []
    while part := os.pread(descriptor, 2**20, offset):
        parts.append(part)
        offset += len(part)
    return b"".join(parts)


@contextmanager
def _locked(descriptor: int, how: int) -> Iterator[None]:
    """Lock an open file, after another process has unlocked it; closing the file at the end unlocks it."""
    try:
        fcntl.flock(descriptor, how)
        yield
    finally:
        os.close(descriptor)


def _force_names(folder: Path) -> None:
    """Sync the names of the files in a folder to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _accountant(kind: Any, history: dict[Mechanism, int]) -> Accountant:
    accountant = Accountant(kind)
    for mechanism, count in history.items():
        accountant.charge(mechanism, count)
    return accountant


def _epsilon(history: dict[Mechanism, int], delta: float) -> float:
    refusal: ValueError | None = None
    for kind in KINDS:
        try:
            return _accountant(kind, history).epsilon(delta)
        except ValueError as error:
            refusal = error
    raise ValueError(f"a node's trainings cannot be added up: {refusal}") from refusal


def _is_within(history: dict[Mechanism, int], epsilon: float, delta: float) -> bool:
    try:
        at_most = _accountant("rdp", history).epsilon(delta)
    except ValueError:  # what Rényi divergences do not count, privacy loss distributions may
        return _epsilon(history, delta) <= epsilon
    # They take no time. A distribution is made where it can make a difference, and not of a billion steps.
    if at_most <= epsilon or not at_most <= _RDP_IS_NO_MORE_THAN * epsilon:
        return at_most <= epsilon
    return _epsilon(history, delta) <= epsilon


def _cost(charge: Charge, delta: float) -> float:
    if charge.mechanism is None:
        return math.inf
    return _epsilon({charge.mechanism: charge.releases}, delta)
