"""A whole report of a run, section by section."""

from __future__ import annotations

from pathlib import Path

from lightning_fed.record import RunRecord
from lightning_fed.reports.run.cost import cost
from lightning_fed.reports.run.document import Report
from lightning_fed.reports.run.leaving import what_left
from lightning_fed.reports.run.overview import curves, headline
from lightning_fed.reports.run.promised import promised_by
from lightning_fed.reports.run.setup import how_to_repeat, what_was_run
from lightning_fed.reports.run.statement import statement, tile
from lightning_fed.reports.run.view import View
from lightning_fed.reports.run.workers import fairness, table_of_all, workers


def report_of(
    record: RunRecord, *, metric: str | None = None, target: float | None = None, checkpoint: Path | None = None
) -> Report:
    """Return the report of a run.

    Args:
        record: The run's record.
        metric: The metric; None: the first one whose high values are better, else the first one.
        target: A value of the metric, for the cost of reaching it; None: none.
        checkpoint: The given checkpoint, if the path was one.

    Raises:
        MissingFactError: If the run's files lack a required fact.
        ValueError: If there is no such metric.
    """
    view = View.of(record, metric)
    promised = promised_by(view, checkpoint)
    sections = (
        headline(view, tile(promised)),
        curves(view),
        what_was_run(view),
        workers(view),
        fairness(view),
        cost(view, target),
        what_left(view),
        statement(view, promised),
        how_to_repeat(view),
    )
    return Report(record.name, _subtitle(view), sections)


def promise_of(record: RunRecord, *, checkpoint: Path | None = None) -> Report:
    """Return the privacy statement of a run alone.

    Args:
        record: The run's record.
        checkpoint: The given checkpoint, if the path was one.

    Raises:
        MissingFactError: If the run's files lack a required fact.
    """
    view = View.of(record)
    return Report(record.name, _subtitle(view), (statement(view, promised_by(view, checkpoint)),))


def rows_of_all(record: RunRecord, metric: str | None = None) -> str | None:
    """Return a row for each worker as CSV; None: the report has them all, or they are hidden.

    Args:
        record: The run's record.
        metric: See :func:`report_of`.
    """
    return table_of_all(View.of(record, metric))


def _subtitle(view: View) -> str:
    versions = view.fact("versions", "which versions ran it")
    finished = view.fact("finished", "when it ended")
    when = f"ended {finished}" if finished else f"began {view.fact('started', 'when it began')}"
    names = [f"{name} {version}" for name, version in versions.items() if name in ("lightning_fed", "torch")]
    return " · ".join([str(view.fact("outcome", "how the run ended")), when, *names])
