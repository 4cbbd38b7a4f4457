"""The report of a round as a table, for printing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lightning_fed.wire.report import RoundReport

_MOST = 20
"""Workers that are shown one by one; of more, those with the largest losses."""


def headline(report: RoundReport) -> str:
    """Return the round in one line: its workers, their loss, the lost workers, and the traffic.

    Args:
        report: The report.
    """
    counts = {
        "failed": len(report.failures),
        "dropped": len(report.dropped),
        "stragglers": len(report.stragglers),
    }
    if not len(report) and not any(counts.values()):
        return "RoundReport: nothing is reported"
    said = [f"{len(report)} worker{'s' if len(report) != 1 else ''}", f"{report.examples:g} examples"]
    said += [f"loss {report.loss:.4g}"] if report.examples and not math.isnan(report.loss) else []
    said += [f"{count} {what}" for what, count in counts.items() if count]
    shorter = "" if report.compression is None else f" (compressed {report.compression:.3g} times)"
    said += [f"{_bytes(report.bytes_down)} down", f"{_bytes(report.bytes_up)} up{shorter}"]
    return f"RoundReport: {', '.join(said)}"


def rows_of(report: RoundReport) -> list[list[str]]:
    """Return a row for each worker below a head; of many workers, for those with the largest losses.

    Args:
        report: The report.
    """
    records = report.workers
    if not records:
        return []
    if len(records) > _MOST:
        order = {worker: math.inf if math.isnan(record.loss) else -record.loss for worker, record in records.items()}
        largest = sorted(records, key=order.__getitem__)[:_MOST]
        records = {worker: records[worker] for worker in records if worker in set(largest)}
    names = list(dict.fromkeys(name for record in records.values() for name in record.metrics))
    head = ["worker", "examples", "loss", *(f"logged/{name}" if name == "loss" else name for name in names)]
    return [
        head,
        *(
            [worker, f"{record.examples:g}", _number(record.loss), *(_number(record.metrics.get(n)) for n in names)]
            for worker, record in records.items()
        ),
    ]


def left_out(report: RoundReport, rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line with the number of workers without a row, if there are any.

    Args:
        report: The report.
        rows: The rows, with the head.
    """
    if report.cohorts:
        summed = [cohort for cohort in report.cohorts if cohort.examples]
        clipped = sum(1 - cohort.within for cohort in summed) / max(len(summed), 1)
        cut = f"; {clipped:.0%} of the updates were longer than clip" if clipped else ""
        return [f"  values are the cohort's, and those of single workers were not to be seen{cut}"] if summed else []
    more = len(report) - max(len(rows) - 1, 0)
    return [f"  and {more} more, with smaller losses or none"] if more > 0 else []


def _number(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.4g}"


def _bytes(count: int) -> str:
    """Return a number of bytes in a unit that suits it.

    >>> _bytes(12), _bytes(15_300), _bytes(2_500_000)
    ('12 B', '15.3 kB', '2.5 MB')
    """
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
