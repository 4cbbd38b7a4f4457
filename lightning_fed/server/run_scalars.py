"""Curves about a server step beside those of what its workers logged: cost, coverage, drift and learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_fed.server.drift import drift_scalars
from lightning_fed.server.round_result import StepResult
from lightning_fed.server.secure_remarks import secure_scalars


def cohort_scalars(result: StepResult, coverage: float) -> dict[str, float]:
    """Return the curves that are about workers, and are hidden where these are.

    Args:
        result: What came of the step.
        coverage: The share of the population that has taken part by now.

    Returns:
        ``round/coverage``; ``time/local`` and ``time/aggregate``, seconds that add up to ``round/seconds``;
        ``update/{p10,p90}_norm`` and ``update/alignment``, where they were measured; ``local/lr``, the first learning
        rate of the workers; ``secure/...`` under secure aggregation.
    """
    local = sum(r.outcome.local_seconds for r in result.rounds)
    drifts = [r.outcome.drift for r in result.rounds if r.outcome.drift is not None]
    rates = list(result.report.rates.values())
    return {
        "round/coverage": coverage,
        "time/local": local,
        "time/aggregate": result.seconds - local,
        **drift_scalars(drifts),
        **({"local/lr": rates[0]} if rates else {}),
        **secure_scalars(result.report.cohorts),
    }


def server_rate(optimizers: Sequence[Any]) -> dict[str, float]:
    """Return ``server/lr``, the first learning rate of the server's optimizer, if it has one.

    Args:
        optimizers: Those of the Trainer.
    """
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups if "lr" in group]
    return {"server/lr": float(rates[0])} if rates else {}
