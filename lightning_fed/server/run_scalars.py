"""Curves about a server step beside those of what its workers logged: cost, coverage, drift and learning rates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_fed.server.round_result import Round
from lightning_fed.server.spread import spread_scalars
from lightning_fed.wire.report import RoundReport


def cohort_scalars(rounds: Sequence[Round], coverage: float) -> dict[str, float]:
    """Return the curves that are about workers, and are hidden where these are.

    Args:
        rounds: The one cohort of the step, or several whose gradients were accumulated.
        coverage: The share of the population that has taken part by now.

    Returns:
        ``round/coverage``; ``time/local`` and ``time/aggregate``, seconds that add up to ``round/seconds``;
        ``update/{p10,p90}_norm`` and ``update/alignment``, where they were measured; ``local/lr``, the first learning
        rate of the workers.
    """
    local = sum(r.outcome.local_seconds for r in rounds)
    spreads = [r.outcome.spread for r in rounds if r.outcome.spread is not None]
    rates = list(RoundReport.merged([r.report for r in rounds]).rates.values())
    return {
        "round/coverage": coverage,
        "time/local": local,
        "time/aggregate": sum(r.seconds for r in rounds) - local,
        **spread_scalars(spreads),
        **({"local/lr": rates[0]} if rates else {}),
    }


def server_rate(optimizers: Sequence[Any]) -> dict[str, float]:
    """Return ``server/lr``, the first learning rate of the server's optimizer, if it has one.

    Args:
        optimizers: Those of the Trainer.
    """
    rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups if "lr" in group]
    return {"server/lr": float(rates[0])} if rates else {}
