"""Comparison of finished runs over seeds: a table with a stated rule, and curves with bands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_fed.core.arguments import flag, number, text
from lightning_fed.reports.comparison.comparison import Comparison, compared
from lightning_fed.reports.comparison.found import finished, metric_among, records_below, runs_of
from lightning_fed.reports.comparison.rules import Rule
from lightning_fed.reports.comparison.spread import Interval, Spread
from lightning_fed.reports.comparison.table import Reached, Row

__all__ = ["Comparison", "Interval", "Reached", "Row", "Spread", "compare"]


def compare(
    folders: str | Path | Sequence[str | Path],
    metric: str | None = None,
    rule: str = "last",
    target: float | None = None,
    anyway: bool = False,
) -> Comparison:
    """Compare finished runs: a row for each group of runs that differ only in seeds.

    Args:
        folders: One or several folders of runs; records are searched for in them and below them.
        metric: The metric; None: the first one of which high values are better, else the first one.
        rule: The evaluations that count: ``last``, ``best``, or ``mean:K`` for the mean of the last K.
        target: A value for which the first round is reported; None: none.
        anyway: Whether to compare runs that differ in data, partition or evaluation, with a warning.

    Raises:
        FileNotFoundError: If there is no record in a folder or below it.
        ValueError: If there are fewer than two finished runs, no run has the metric, the rule is unknown, or the runs
            differ in data, partition, metric or evaluation.
    """
    parsed = Rule.parsed(text("rule", rule))
    target = None if target is None else number("target", target)
    anyway = flag("anyway", anyway)
    folders = [folders] if isinstance(folders, (str, Path)) else folders
    records, left_out = finished(records_below(folders))
    metric = metric_among(records, metric)
    runs, without = runs_of(records, metric, when_matters=parsed.kind != "last" or target is not None)
    if without and not anyway:
        raise ValueError(
            f"these runs cannot be compared: {', '.join(without)} {'has' if len(without) == 1 else 'have'} no metric "
            f"{metric!r}; name another one, or give --anyway (anyway=True) to leave them out"
        )
    left_out += [f"{path} (no metric {metric!r})" for path in without]
    return compared(runs, metric, parsed, target, anyway, left_out)
