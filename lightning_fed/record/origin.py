"""The origin of a run that was resumed from a checkpoint in another folder, with its record there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

from lightning_fed.record.files import RUN
from lightning_fed.record.reader import RunRecord, read

_STEPS = 3
"""The number of folders above a checkpoint in which its run's folder is searched."""
_MOVED = 4
"""The largest number of equal folders in a path after runs were moved together."""


@final
@dataclass(frozen=True)
class Origin:
    """The origin of a run that did not begin in its folder.

    Args:
        checkpoint: The checkpoint from which the run was resumed in its folder.
        after: The number of finished rounds at that point.
        records: The records of earlier rounds, the earliest first, each up to its checkpoint.
        missing: The number of rounds, from the first one on, without a record.
        why: The reason for missing records, as text; empty if nothing is missing.
    """

    checkpoint: str
    after: int
    records: Sequence[RunRecord]
    missing: int
    why: str


def whole(record: RunRecord) -> tuple[RunRecord, Origin | None]:
    """Prepend to a record the rounds and evaluations of the run in other folders.

    Args:
        record: The record.

    Returns:
        The extended record; and its origin, None if the run began in its folder.
    """
    first = next(iter(record.run["fits"]), {"round": 0})
    if not first["round"]:
        return record, None
    records: list[RunRecord] = []
    checkpoint, after, why, part = str(first.get("checkpoint")), int(first["round"]), "", record
    while first["round"]:
        found = _before(part.folder, first, [record, *records])
        if isinstance(found, str):
            why = found
            break
        part = found
        records.insert(0, part)
        first = part.run["fits"][0]
    joined = replace(
        record,
        rounds=[line for part in (*records, record) for line in part.rounds],
        evaluations=[line for part in (*records, record) for line in part.evaluations],
    )
    return joined, Origin(checkpoint, after, records, int(first["round"]), why)


def fit_of(checkpoint: str | None) -> str | None:
    """Return the name of the fit that has written a checkpoint: the last one in the record around it.

    Args:
        checkpoint: The checkpoint's path; None: there is none.
    """
    for place in () if checkpoint is None else _around(Path(checkpoint)):
        try:
            return str(read(place).run["fits"][-1]["fit"])
        except (OSError, ValueError, LookupError):
            return None
    return None


def _before(folder: Path, fit: Mapping[str, Any], seen: Sequence[RunRecord]) -> RunRecord | str:
    """Return the record of the rounds before a fit, or the reason why there is none."""
    if not fit.get("checkpoint"):
        return "it is not recorded from which checkpoint"
    rounds, why = int(fit["round"]), ""
    for place in _places(str(fit["checkpoint"]), folder):
        if any(os.path.realpath(place) == os.path.realpath(other.folder) for other in seen):
            continue
        try:
            found = read(place, until=fit.get("from_fit"))
        except (OSError, ValueError) as error:
            why = why or str(error)
            continue
        there = [line for line in found.rounds if line["round"] < rounds]
        if found.run["fits"][0]["round"] < rounds and there and there[-1]["round"] == rounds - 1:
            evaluations = [line for line in found.evaluations if line["round"] < rounds]
            return replace(found, rounds=there, evaluations=evaluations)
        why = why or f"the record in {place} does not reach it"
    return why or f"there is no record around that checkpoint (no {RUN} in the {_STEPS} folders above it)"


def _places(checkpoint: str, folder: Path) -> Iterator[Path]:
    """Yield the folders of runs around a checkpoint: the original one, and the new one if all runs were moved."""
    path = Path(checkpoint)
    yield from _around(path)
    for above in folder.absolute().parents[:_MOVED]:
        for parts in range(2, min(_MOVED, len(path.parts) - 1) + 1):
            yield from _around(above.joinpath(*path.parts[-parts:]), above)


def _around(path: Path, within: Path | None = None) -> Iterator[Path]:
    for place in path.absolute().parents[:_STEPS]:
        if place == within:
            return
        if (place / RUN).is_file():
            yield place
            return
