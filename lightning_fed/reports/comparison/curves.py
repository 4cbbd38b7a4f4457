"""The curve of a metric, from the record of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from lightning_fed.core.direction import worst_decile
from lightning_fed.core.spread import point
from lightning_fed.record import RunRecord
from lightning_fed.reports.comparison.run import Evaluation

_IN_A_FIT = "val"


def metrics_of(record: RunRecord) -> list[str]:
    """Return the names of a run's metrics: those of its evaluations first, then those of its rounds.

    Args:
        record: The record.
    """
    lines = [*record.evaluations[-1:], *record.evaluations, *record.rounds]
    return list(dict.fromkeys(name for line in lines for name in (line.get("metrics") or ())))


def evaluations_of(record: RunRecord, metric: str) -> list[Evaluation]:
    """Return the values of a metric: in the evaluations of a fit, else in those after it, else in its rounds.

    Args:
        record: The record.
        metric: The metric's name.

    Returns:
        One for each round after which there is a value, the last one if there are several; in order.
    """
    in_fit = [line for line in record.evaluations if line["stage"] == _IN_A_FIT]
    after = [line for line in record.evaluations if line["stage"] != _IN_A_FIT]
    for lines in (in_fit, after, record.rounds):
        found = {line["round"] + 1: line for line in lines if metric in (line.get("metrics") or ())}
        if found:
            return [
                Evaluation(over, _number(line["metrics"][metric]), _worst(line, metric), lines is record.rounds)
                for over, line in sorted(found.items())
            ]
    return []


def _worst(line: Mapping[str, Any], metric: str) -> float | None:
    values = list(_of_workers(line, metric))
    return point(values, worst_decile(metric)) if values else None


def _of_workers(line: Mapping[str, Any], metric: str) -> Iterator[float]:
    """Yield the values of single workers; a worker without a value (an undefined metric) is skipped."""
    for metrics in (line.get("workers") or {}).values():
        if metrics.get(metric) is not None:
            yield float(metrics[metric])


def _number(value: float | None) -> float:
    """Return a number; null stands for a value that was not a number, or not finite."""
    return math.nan if value is None else float(value)
