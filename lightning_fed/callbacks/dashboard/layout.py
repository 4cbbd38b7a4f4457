"""Layout of TensorBoard's Custom Scalars: quality by worker, cost, participation, drift, privacy."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from lightning_fed.callbacks.dashboard.boards import Layout
from lightning_fed.core.direction import worst_decile

_MOST_METRICS = 8
"""The largest number of metrics with a chart; the others have curves only."""


def layout_of(
    pooled: Mapping[str, str],
    of_workers: Collection[str],
    shows_workers: bool,
    is_private: bool,
    evaluates: bool,
    has_budget: bool = False,
    sums_only: bool = False,
) -> Layout:
    """Return the charts of a run, section by section.

    Args:
        pooled: The curves over all data, by the names of the metrics.
        of_workers: The metrics with a distribution over workers.
        shows_workers: Whether curves about workers are drawn.
        is_private: Whether there is a promise of privacy.
        evaluates: Whether there are evaluations whose time is drawn.
        has_budget: Whether there is a budget, and with it a number of remaining rounds.
        sums_only: Whether only sums over a cohort are visible.
    """
    names = list(dict.fromkeys([*pooled, *of_workers]))[:_MOST_METRICS]
    good: dict[str, tuple[str, list[str]]] = {}
    for name in names:
        if name in of_workers:
            good[f"{name}: workers, p10 to p90"] = (
                "Margin",
                [f"workers/{name}/{point}" for point in ("median", "p10", "p90")],
            )
            worst = worst_decile(name)
            good[f"{name}: all, and worst decile"] = _lines(
                *([pooled[name]] if name in pooled else []), f"workers/{name}/{worst}"
            )
        else:
            good[name] = _lines(pooled[name])
    times = ("time/local", "time/aggregate") if shows_workers else ()
    cost = {"megabytes so far": _lines("comm/megabytes_up_total", "comm/megabytes_down_total")}
    if times or evaluates:
        cost["seconds"] = _lines(*times, *(("time/evaluate",) if evaluates else ()))
    sections: dict[str, dict[str, tuple[str, list[str]]]] = {"How good, and for whom": good, "What it cost": cost}
    if shows_workers:
        sections["Who took part"] = {
            "cohort, dropped, stragglers": _lines("round/cohort_size", "round/dropped", "round/stragglers"),
            "share of the population so far": _lines("round/coverage"),
        }
    if shows_workers and sums_only:
        sections["Secure aggregation"] = {
            "part of the updates that were shortened": _lines("secure/clipped"),
            "losses and metrics that were left out": _lines("secure/metrics_out_of_range"),
        }
    elif shows_workers and not is_private:
        sections["Drift"] = {
            "norms of updates: p10, p90, mean": _lines("update/p10_norm", "update/p90_norm", "update/norm"),
            "alignment with the mean": _lines("update/alignment"),
        }
    if is_private:
        spent = {"ε and its budget": _lines("privacy/epsilon", "privacy/epsilon_budget")}
        left = {"rounds left": _lines("privacy/rounds_left")}
        sections["Privacy"] = {**spent, **left} if has_budget else {"ε": _lines("privacy/epsilon")}
    return {title: charts for title, charts in sections.items() if charts}


def _lines(*names: str) -> tuple[str, list[str]]:
    """Return the chart of exactly these curves: TensorBoard matches names as regular expressions, at their start."""
    return "Multiline", [f"^{re.escape(name)}$" for name in names]
