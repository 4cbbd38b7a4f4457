"""The folder of all logs around a run: ledgers of other private runs, and records of the fits that share its ledger."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from lightning_fed.privacy.ledger import PREFIX
from lightning_fed.record import RunRecord
from lightning_fed.record.files import RUN
from lightning_fed.record.reader import content_of

MOST_FOLDERS = 20_000
"""The largest number of searched folders: a page about a run must be fast even among unrelated files."""
_DEEPEST = 5


@final
@dataclass(frozen=True)
class Logs:
    """The runs in the folder of all logs, for any subfolder of a config or project.

    Args:
        place: The folder.
        ledgers: The ledgers of private runs in it.
        records: The folders of runs in it.
        is_whole: Whether the whole folder was searched: it has at most :data:`MOST_FOLDERS` folders.
    """

    place: Path
    ledgers: Sequence[Path]
    records: Sequence[Path]
    is_whole: bool

    @staticmethod
    def around(record: RunRecord) -> Logs:
        """Search the folder of a run's logger with all runs, which follows from the run's name.

        Args:
            record: The run's record.
        """
        place = _root(record)
        ledgers: list[Path] = []
        records: list[Path] = []
        for number, (folder, folders, files) in enumerate(os.walk(place)):
            if number >= MOST_FOLDERS:
                return Logs(place, ledgers, records, is_whole=False)
            here = Path(folder)
            is_deep = len(here.relative_to(place).parts) >= _DEEPEST
            folders[:] = [] if is_deep else sorted(name for name in folders if not name.startswith("."))
            ledgers += sorted(here / name for name in files if name.startswith(PREFIX) and name.endswith(".jsonl"))
            records += [here] if RUN in files else []
        return Logs(place, ledgers, records, is_whole=True)

    def sharing(self, ledger: Path) -> list[Path]:
        """Return the folders of the runs that write into a ledger.

        Args:
            ledger: The ledger's file.
        """
        found = []
        for folder in self.records:
            try:
                name = content_of(folder / RUN).get("ledger")
            except (OSError, ValueError):
                continue
            if name is not None and (folder / str(name)).resolve() == ledger.resolve():
                found.append(folder)
        return found


def _root(record: RunRecord) -> Path:
    folder, parts = record.folder.absolute(), Path(record.name).parts
    return folder.parents[len(parts) - 1] if parts and folder.parts[-len(parts) :] == parts else folder.parent
