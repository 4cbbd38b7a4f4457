"""The runs of a comparison: records below the given folders, and their selection."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fed.core.arguments import nearest
from lightning_fed.core.configs import Scalar
from lightning_fed.core.direction import foremost
from lightning_fed.record import RunRecord, read, whole
from lightning_fed.record.files import RUN
from lightning_fed.reports.comparison.curves import evaluations_of, metrics_of
from lightning_fed.reports.comparison.facts import code_of, data_of, dealt_of, hides, seeds_of, settings_of, spending_of
from lightning_fed.reports.comparison.run import Run
from lightning_fed.reports.places import runs_below

_FINISHED = "completed"
_NEEDED = ("outcome", "started", "settings", "seeds", "data")


def records_below(folders: Sequence[str | Path]) -> list[RunRecord]:
    """Find the records in folders and below them, in the order of the folders.

    Args:
        folders: The folders.

    Raises:
        FileNotFoundError: If there is no record in one of them.
        ValueError: If a record cannot be read.
    """
    return [_whole(read(path)) for path in runs_below(folders)]


def finished(records: Sequence[RunRecord]) -> tuple[list[RunRecord], list[str]]:
    """Divide records into those of finished runs, and the others.

    Args:
        records: The records.

    Returns:
        Those of finished runs, each with the rounds that it ran in other folders; and of each other run its folder and
        why it is left out: how it ended, unless a finished run of its settings and seeds has taken its place, or that
        its first rounds are recorded nowhere.

    Raises:
        ValueError: If fewer than two runs are finished.
    """
    kept, done, left_out = [], [], []
    for record in records:
        if record.run["outcome"] == _FINISHED:
            joined, origin = whole(record)
            done.append(_identity(record))
            if origin is None or not origin.missing:
                kept.append(joined)
            else:
                left_out.append(f"{record.folder} (without its first {origin.missing} rounds: {origin.why})")
    left_out += [
        f"{record.folder} ({_how(record)})"
        for record in records
        if record.run["outcome"] != _FINISHED and _identity(record) not in done
    ]
    if len(kept) < 2:
        also = f"; left out: {', '.join(left_out)}" if left_out else ""
        one = f"only one finished run, {kept[0].folder}" if kept else "no finished run"
        raise ValueError(f"a comparison is of two runs or more, and there is {one}{also}")
    return kept, left_out


def metric_among(records: Sequence[RunRecord], metric: str | None) -> str:
    """Return the metric to compare.

    Args:
        records: The records.
        metric: Its name; None: the first one of the first run that is better when it is high, else the first one.

    Raises:
        ValueError: If no run has it.
    """
    known = list(dict.fromkeys(name for record in records for name in metrics_of(record)))
    if metric is None:
        first = foremost(known)
        if first is None:
            raise ValueError(
                "no run was evaluated or has logged a metric: log one in validation_step, as self.log('val_acc', ...)"
            )
        return first
    if metric not in known:
        there = f"there are {', '.join(known)}" if known else "there is none at all"
        raise ValueError(f"no run has a metric {metric!r}; {there}{nearest(metric, known)}")
    return metric


def runs_of(records: Sequence[RunRecord], metric: str, when_matters: bool) -> tuple[list[Run], list[str]]:
    """Read what a comparison takes of runs.

    Args:
        records: The records.
        metric: The metric.
        when_matters: Whether it matters after which rounds they were evaluated.

    Returns:
        The runs that have it, and the folders of those that do not.
    """
    configs = [settings_of(record) for record in records]
    # A run of a script has no config; then only what every run records tells runs apart.
    all_have = all(config is not None for _, config in configs)
    dealt = [
        dealt_of(record, config if all_have else None) for record, (_, config) in zip(records, configs, strict=True)
    ]
    names = dict.fromkeys(name for facts in dealt for name in facts)
    # Hidden settings are unknown: they are not a difference, and do not distinguish rows. Of objects the class is
    # shown.
    private = [facts for record, facts in zip(records, dealt, strict=True) if hides(record)]
    hidden = {name for facts in private for name in names if name not in facts}
    coarse = {name for facts in private for name, value in facts.items() if isinstance(value, str)}

    def shown(name: str, value: Scalar) -> Scalar:
        return value.partition("(")[0] if name in coarse and isinstance(value, str) else value

    runs, without = [], []
    for record, (settings, config), facts in zip(records, configs, dealt, strict=True):
        evaluations = evaluations_of(record, metric)
        if not evaluations:
            without.append(str(record.folder))
            continue
        told = {**settings, **(config or {})} if all_have else settings
        runs.append(
            Run(
                path=str(record.folder),
                settings={name: shown(name, value) for name, value in told.items() if name not in hidden},
                seeds=seeds_of(record),
                evaluations=evaluations,
                facts={name: shown(name, facts.get(name, None if hides(record) else "none")) for name in names},
                measured=data_of(record, evaluations if when_matters else ()),
                bytes=_bytes(record),
                seconds=_seconds(record),
                started=str(record.run["started"]),
                spending=spending_of(record),
                code=code_of(record),
            )
        )
    return runs, without


def _whole(record: RunRecord) -> RunRecord:
    """Refuse a record that lacks what a comparison needs."""
    missing = [key for key in _NEEDED if key not in record.run]
    if missing:
        raise ValueError(f"{record.folder / RUN} is damaged: it has no {missing[0]}; leave this run out")
    return record


def _identity(record: RunRecord) -> Any:
    return dict(record.settings), dict(record.run["seeds"])


def _how(record: RunRecord) -> str:
    outcome = {"running": "has not ended"}.get(record.run["outcome"], record.run["outcome"])
    error = record.run.get("error")
    return f"{outcome}: {' '.join(error.split()).rstrip(': ')}" if error else str(outcome)


def _bytes(record: RunRecord) -> dict[int, int]:
    """Bytes by the rounds that were over; nothing where a promise hides them, or the first rounds lie elsewhere."""
    sizes = {line["round"] + 1: (line.get("bytes_down"), line.get("bytes_up")) for line in record.rounds}
    known = {over: down + up for over, (down, up) in sizes.items() if down is not None and up is not None}
    return known if set(known) == set(range(1, max(sizes, default=0) + 1)) else {}


def _seconds(record: RunRecord) -> float | None:
    """Seconds of all rounds and evaluations; None where a promise hides them, or the first rounds lie elsewhere."""
    if not record.rounds or record.rounds[0]["round"] > 0 or any("seconds" not in line for line in record.rounds):
        return None
    return math.fsum(float(line.get("seconds") or 0.0) for line in (*record.rounds, *record.evaluations))
