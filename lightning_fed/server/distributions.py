"""Single workers' values as curves: each worker's own, and their distribution, which callbacks can monitor."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache, partial
from typing import final

from lightning_fed._lightning import rank_zero_warn
from lightning_fed.core.spread import LABELS, spread

Workers = Mapping[str, Mapping[str, float]]
"""Values by worker and metric."""


@final
class Distribution:
    """Distribution of one metric over workers, computed when it is first asked for.

    Args:
        metric: The metric's name.
        values: Returns its value at each worker that has one.
        said: The metrics of which a warning has named NaN values; changed in place.
    """

    def __init__(self, metric: str, values: Callable[[], Mapping[str, float]], said: set[str]) -> None:
        self._metric = metric
        self._values = values
        self._said = said
        self._points: dict[str, float] = {}

    def __getitem__(self, label: str) -> float:
        """Return ``min``, ``p10``, ``median``, ``p90``, ``max`` or ``std``."""
        if not self._points:
            values = self._values()
            self._points = spread(values.values())
            without = [worker for worker, value in values.items() if math.isnan(value)]
            if len(without) < len(values):  # else there is no distribution, such as one of losses that are not returned
                self._say_who_has_none(without)
        return self._points[label]

    @property
    def tags(self) -> tuple[tuple[str, str], ...]:
        """The names of the curves, each with its label."""
        return _tags(self._metric)

    def scalars(self) -> dict[str, float]:
        """Return all of it, by the names of the curves."""
        return {tag: self[label] for tag, label in self.tags}

    def _say_who_has_none(self, workers: Collection[str]) -> None:
        if not workers or self._metric in self._said:
            return
        self._said.add(self._metric)
        first, others = next(iter(workers)), len(workers) - 1
        rank_zero_warn(
            f"{self._metric} is NaN at worker {first!r}{f' and {others} more' if others else ''}; its distribution, "
            f"workers/{self._metric}/..., is that of the workers that have a number (said once)"
        )


@lru_cache(maxsize=1024)
def _tags(metric: str) -> tuple[tuple[str, str], ...]:
    return tuple((f"workers/{metric}/{label}", label) for label in LABELS)


def distributions(
    metrics: Collection[str], table: Callable[[], Mapping[str, Mapping[str, float]]], said: set[str]
) -> dict[str, Distribution]:
    """Return the distributions of several metrics.

    Args:
        metrics: Their names.
        table: Returns ``{metric: {worker: value}}``.
        said: See :class:`Distribution`.
    """
    return {metric: Distribution(metric, partial(_row, table, metric), said) for metric in metrics}


def _row(table: Callable[[], Mapping[str, Mapping[str, float]]], metric: str) -> Mapping[str, float]:
    return table().get(metric, {})


def by_metric(workers: Workers) -> dict[str, dict[str, float]]:
    """Turn ``{worker: {metric: value}}`` into ``{metric: {worker: value}}``."""
    table: dict[str, dict[str, float]] = {}
    for worker, metrics in workers.items():
        for name, value in metrics.items():
            table.setdefault(name, {})[worker] = value
    return table


def worker_scalars(
    workers: Workers, spreads: Mapping[str, Distribution], hidden: Collection[str] = ()
) -> dict[str, float]:
    """Return the curves about single workers: each worker's own values, and the distributions over all workers.

    Args:
        workers: Those that get curves of their own, and their values.
        spreads: The distributions, by metric.
        hidden: The metrics that no logger draws.

    Returns:
        ``worker/<name>/<metric>`` and ``workers/<metric>/{min,p10,median,p90,max,std}``.

    >>> workers = {"bob": {"loss": 1.0}, "alice": {"loss": 3.0}}
    >>> scalars = worker_scalars(workers, distributions(["loss"], lambda: by_metric(workers), set()))
    >>> scalars["worker/bob/loss"], scalars["workers/loss/median"], scalars["workers/loss/std"]
    (1.0, 2.0, 1.0)
    """
    scalars = {
        f"worker/{worker}/{name}": value
        for worker, metrics in workers.items()
        for name, value in metrics.items()
        if name not in hidden
    }
    for name, distribution in spreads.items():
        if name not in hidden:
            scalars |= distribution.scalars()
    return scalars
