"""The ledger of a run: every release, recorded before it is made, as JSON Lines.

A line is written by one call and never changed, so it survives any end of the process. An incomplete last line belongs
to a release that was never made. Lines have a ``kind``:

=========== ======================================================================================================
``run``     a fit begins: the promise, what is protected from whom, and all settings
``carried`` what a stretch was charged that is not in this file, as a checkpoint says
``release`` one round: stretch, number, round, cohort, mechanism, bound, noise, relation, what it was charged, ε
``end``     the fit is over: ε as claimed, and whether the accountant finds the same from this file alone
=========== ======================================================================================================

A fit that was interrupted has no line ``end``. Its releases after its last checkpoint are charged to the fit that
resumes from that checkpoint. The last checkpoint of a completed fit holds all its releases; a fit that resumes from an
older checkpoint is a branch, with its own account, and the ledger holds the joint cost of all branches.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, final

from lightning_fed.privacy.account import Account
from lightning_fed.privacy.accounting import Accountant, Kind
from lightning_fed.privacy.mechanisms import Relation

VERSION = 1
PREFIX = "privacy-ledger-"


def ledger_in(folder: Path, run: str) -> Path:
    """Return the path of a run's ledger in a folder.

    Args:
        folder: The folder.
        run: The run's name.

    >>> ledger_in(Path("logs"), "ab12").name
    'privacy-ledger-ab12.jsonl'
    """
    return folder / f"{PREFIX}{run}.jsonl"


@final
class Ledger:
    """Writes the lines of one run's ledger.

    Args:
        path: The file; an existing file is continued. None: nothing is written, as in processes other than the first.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path

    def write(self, kind: str, **values: Any) -> None:
        """Add a line.

        Args:
            kind: The kind of the line.
            values: The values of the line, as JSON types.

        Raises:
            OSError: If the file cannot be written; the message names a fix.
        """
        if self.path is None:
            return
        line = json.dumps({"kind": kind, **values}, ensure_ascii=False, allow_nan=True) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                file.seek(0, 2)
                if file.tell():
                    file.seek(-1, 2)
                    if file.read(1) != b"\n":  # the process that wrote last was killed
                        line = "\n" + line
                file.write(line.encode())
        except OSError as error:
            raise OSError(
                f"the ledger of privacy {self.path} cannot be written ({error}), and nothing is released that is not "
                "in it; make room, or let the Trainer's logger or default_root_dir name a folder that can be written"
            ) from error


@final
@dataclass
class Record:
    """The content of a ledger.

    Args:
        account: What was charged.
        runs: The lines ``run``, oldest first.
        releases: The lines ``release``, oldest first.
        ends: The lines ``end``, oldest first.
        unreadable: The number of lines that cannot be read.
    """

    account: Account = field(default_factory=Account)
    runs: list[dict[str, Any]] = field(default_factory=list)
    releases: list[dict[str, Any]] = field(default_factory=list)
    ends: list[dict[str, Any]] = field(default_factory=list)
    unreadable: int = 0

    @property
    def unended(self) -> Account:
        """Releases of interrupted fits, for any checkpoints that they have left."""
        ended = {end["stretch"] for end in self.ends}
        return self.account.only([stretch for stretch in self.account.stretches if stretch not in ended])


def read(path: Path) -> Record:
    """Read a ledger.

    Args:
        path: The file.

    Raises:
        OSError: If the ledger cannot be opened.
        ValueError: If a newer lightning_fed wrote the ledger.
    """
    record = Record()
    for line in _lines(path):
        try:
            entry = json.loads(line)
            kind = entry["kind"]
            if kind == "run":
                record.runs.append(entry)
            elif kind == "carried":
                for charge in entry["charges"]:
                    record.account.record(entry["stretch"], charge, charge["count"])
            elif kind == "release":
                record.account.record(entry["stretch"], entry["mechanism"], entry["charges"])
                record.releases.append(entry)
            elif kind == "end":
                record.ends.append(entry)
        except (AttributeError, KeyError, TypeError, ValueError):
            record.unreadable += 1
    newest = max((int(run.get("version") or VERSION) for run in record.runs), default=VERSION)
    if newest > VERSION:
        raise ValueError(
            f"{path} was written by a newer lightning_fed (format {newest}, this one reads {VERSION}); upgrade it"
        )
    return record


def recomputed(account: Account, kind: Kind, delta: float) -> float:
    """Compute the ε of an account with a fresh accountant, from its entries only.

    Args:
        account: What was charged.
        kind: The accountant.
        delta: δ.
    """
    return _accountant(account, kind).epsilon(delta)


def relation_of(account: Account, kind: Kind) -> Relation:
    """Return the neighbouring relation of an account's guarantee; see :attr:`PrivateRun.relation`.

    Args:
        account: What was charged.
        kind: The accountant.
    """
    relation = _accountant(account, kind).relation
    return "zero-out" if relation == "add/remove" else relation


def _accountant(account: Account, kind: Kind) -> Accountant:
    accountant = Accountant(kind)
    accountant.load_state_dict({"history": account.total()})
    return accountant


def now() -> str:
    """Return the time in UTC, to seconds."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for line in file:
            if line.strip():
                yield line
