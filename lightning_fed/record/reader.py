"""Reader of the record of a run, as plain data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from lightning_fed.record.files import EVALUATIONS, ROUNDS, RUN

VERSION = 1
"""The version of the format, which docs/records.md describes."""


@final
@dataclass(frozen=True)
class RunRecord:
    """The record of a run; its format is described in docs/records.md.

    Args:
        folder: The folder of the record.
        run: The content of ``run.json``.
        rounds: The lines of ``rounds.jsonl``, one for each round, in order.
        evaluations: The lines of ``evaluations.jsonl``, in chronological order.
    """

    folder: Path
    run: Mapping[str, Any]
    rounds: Sequence[Mapping[str, Any]]
    evaluations: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """The name of the run."""
        return str(self.run["name"])

    @property
    def settings(self) -> Mapping[str, Any]:
        """The flat table of :func:`lightning_fed.record.settings`."""
        settings: Mapping[str, Any] = self.run["settings"]
        return settings


def read(folder: str | Path, until: str | None = None) -> RunRecord:
    """Read the record of a run.

    A run that was resumed in its folder after a crash has some rounds twice; the last line of a round counts. An
    incomplete last line of a killed process is skipped.

    Args:
        folder: The folder of the run's logger, such as ``logs/toy/FedAvg-0``; or the file ``run.json`` in it.
        until: The name of the last fit to include; None: all fits.

    Raises:
        FileNotFoundError: If there is no record in the folder; the message names those in folders below it.
        ValueError: If ``run.json`` is damaged, was written by a newer lightning_fed, or has no such fit.
    """
    folder = Path(folder)
    if folder.name == RUN:
        folder = folder.parent
    if not (folder / RUN).is_file():
        raise FileNotFoundError(_nothing_in(folder))
    run = content_of(folder / RUN)
    if until is not None:
        names = [fit["fit"] for fit in run["fits"]]
        if until not in names:
            raise ValueError(f"{folder / RUN} is of another run by now, which has taken the place of the one before")
        run["fits"] = run["fits"][: names.index(until) + 1]
    begins = {fit["fit"]: fit["round"] for fit in run["fits"]}
    rounds = {line["round"]: line for line in _lines(folder / ROUNDS, begins)}
    evaluations = list(_lines(folder / EVALUATIONS, begins))
    return RunRecord(folder, run, [rounds[number] for number in sorted(rounds)], evaluations)


def content_of(path: Path) -> dict[str, Any]:
    """Return the content of a ``run.json``.

    Args:
        path: The file.

    Raises:
        ValueError: If the file is damaged, or was written by a newer lightning_fed.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, _ = int(content["version"]), [(fit["fit"], fit["round"]) for fit in content["fits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged: it is no record of a run") from error
    if version > VERSION:
        raise ValueError(
            f"{path} was written by a newer lightning_fed (format {version}, this one reads {VERSION}); upgrade it"
        )
    return dict(content)


def evaluations_ever(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of all evaluations in a folder, including those that a later fit has repeated.

    Args:
        folder: The folder of the run.
    """
    return list(_entries(folder / EVALUATIONS))


def _lines(path: Path, begins: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yield the valid lines of a file: those about rounds before the first round of every later fit.

    Args:
        path: The file.
        begins: The first round of each fit, in the order of the fits.
    """
    fits = list(begins)
    ends = {fit: min((begins[later] for later in fits[place + 1 :]), default=None) for place, fit in enumerate(fits)}
    for entry in _entries(path):
        end = ends.get(entry["fit"], 0)
        if end is None or entry["round"] < end:
            yield entry


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the readable lines of a file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # incomplete
            continue
        if isinstance(entry, dict) and entry.keys() >= {"fit", "round"}:
            yield entry


def _nothing_in(folder: Path) -> str:
    if not folder.is_dir():
        return f"there is no folder {folder}; give the folder of a run, such as logs/toy/FedAvg-0"
    below = sorted(path.parent for path in folder.glob("**/" + RUN))
    near = f"; there are records in {', '.join(map(str, below[:5]))}" if below else ""
    more = f" and {len(below) - 5} more" if len(below) > 5 else ""
    return (
        f"there is no record of a run in {folder}: it has no {RUN}, which a fit writes into the folder of the "
        f"first logger that has one{near}{more}"
    )
