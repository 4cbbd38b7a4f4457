"""Lines of a record, about rounds and evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_fed.record.files import plain
from lightning_fed.server.distributions import Workers
from lightning_fed.server.evaluation.log import drawn_name
from lightning_fed.server.evaluation.report import EvaluationReport
from lightning_fed.server.round_result import StepResult
from lightning_fed.wire import WorkerError

MOST_IN_A_COHORT = 1000
"""The largest cohort whose workers are named in the line of a round."""
MOST_EVALUATED = 10_000
"""The largest number of workers with metrics in the line of an evaluation."""


def of_a_round(result: StepResult) -> dict[str, Any]:
    """Return the record of a server step in which nothing is hidden.

    Args:
        result: The result of the step.
    """
    report, examples = result.report, result.examples
    asked = [worker for r in result.rounds for worker in r.asked]
    logged = {name: part.value for name, (shown, part) in result.logged.items() if shown.logger}
    return {
        "size": len(asked),
        "cohort": _names(asked),
        "examples": plain(float(examples)),
        "loss": plain(result.loss) if examples else None,
        "metrics": plain(logged),
        "dropped": _names(report.dropped),
        "stragglers": _names(report.stragglers),
        "failures": _failures(report.failures),
        "seconds": round(result.seconds, 6),
        "bytes_down": report.bytes_down,
        "bytes_up": report.bytes_up,
    }


def of_an_evaluation(report: EvaluationReport, workers: Workers) -> dict[str, Any]:
    """Return the record of single workers in an evaluation.

    Args:
        report: The results.
        workers: The values of :func:`drawn_of`.
    """
    failures = _failures(report.failures)
    if not workers or len(workers) > MOST_EVALUATED:
        return {"workers": None, "examples": None, "failures": failures}
    return {"workers": plain(workers), "examples": dict(report.examples), "failures": failures}


def drawn_of(report: EvaluationReport, drawn: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return the values of single workers that a record may hold.

    Args:
        report: The results.
        drawn: The pooled values that loggers draw; all others are omitted from the record, too.
    """
    return {
        worker: {name: value for name, value in metrics.items() if drawn_name(name, drawn) is not None}
        for worker, metrics in report.workers.items()
    }


def _names(workers: Sequence[str]) -> list[str] | None:
    return list(workers) if len(workers) <= MOST_IN_A_COHORT else None


def _failures(failures: Sequence[WorkerError]) -> list[dict[str, str]]:
    return [{"worker": failure.worker, "reason": failure.reason} for failure in failures]
