"""Results of an evaluation, worker by worker."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any, final

from lightning_fed.core.arguments import nearest, number, one_of, whole
from lightning_fed.core.direction import Mode, better, foremost, worst_decile
from lightning_fed.core.spread import LABELS, in_order, quantile, spread
from lightning_fed.core.table import aligned, in_html
from lightning_fed.server.distributions import by_metric
from lightning_fed.wire import WorkerError

_MANY = 20  # workers: beyond that, only those who fare worst are printed


@final
@dataclass(frozen=True)
class EvaluationReport:
    """Results of the last evaluation, worker by worker; the same on every process.

    Args:
        workers: The values logged about each worker's own data, by worker and name; a torchmetrics object whose states
            do not add up, such as a maximum, has no value for a single worker.
        examples: The number of examples in each worker's batches, by worker; workers whose batches have no
            readable size are left out.
        metrics: The logged values over all data, by name: the values of ``trainer.callback_metrics``.
        round: The number of the last round in which the model was trained; None: it was not trained.
        failures: The workers that were left out.
        note: The reason why there are no workers, in words.

    Example::

        trainer.validate(fed, data)
        report = fed.last_evaluation
        report.quantile("val_acc", 0.1), report.worst(3, "val_acc")
        pandas.DataFrame(report.table())
    """

    workers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    examples: Mapping[str, int] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    round: int | None = None
    failures: tuple[WorkerError, ...] = ()
    note: str = "nothing has been evaluated yet"

    def quantile(self, metric: str, q: float) -> float:
        """Return a quantile of a metric over the workers that have a value of it; each worker counts once.

        Args:
            metric: The name of the metric.
            q: The quantile, from 0 to 1, interpolated linearly as by ``numpy.quantile``.

        Returns:
            The quantile. Values that are NaN are left out; NaN if nothing is left.

        Raises:
            KeyError: If no worker has a value of the metric; the message contains the closest name.
            ValueError: If ``q`` is out of range.

        >>> report = EvaluationReport({"bob": {"val_acc": 0.5}, "alice": {"val_acc": 0.9}})
        >>> report.quantile("val_acc", 0.25)
        0.6
        """
        q = number("q", q, least=0, most=1)
        return quantile(in_order(self._values(metric).values()), q)

    def worst(self, n: int = 1, metric: str | None = None, mode: Mode | None = None) -> dict[str, float]:
        """Return the workers with the worst values of a metric, the worst first.

        Args:
            n: The number of workers.
            metric: The name of the metric; None: the first logged one of which high values are good, else the first.
            mode: ``"max"``: high values are good; ``"min"``: low ones are; None: decided by the metric's name.

        Returns:
            The values by worker; those that are NaN are left out.

        Raises:
            KeyError: If no worker has a value of the metric; the message contains the closest name.
            TypeError: If an argument is of a wrong type.
            ValueError: If an argument is out of range.

        >>> report = EvaluationReport({"bob": {"val_acc": 0.5}, "alice": {"val_acc": 0.9}})
        >>> report.worst()
        {'bob': 0.5}
        """
        n = whole("n", n, least=1)
        metric = self._chosen() if metric is None else metric
        values = self._values(metric)
        mode = better(metric) if mode is None else mode
        low_is_good = one_of("mode", mode, ("min", "max")) == "min"
        numbers = [(worker, value) for worker, value in values.items() if not math.isnan(value)]
        return dict(sorted(numbers, key=lambda item: item[1], reverse=low_is_good)[:n])

    def table(self) -> list[dict[str, Any]]:
        """Return a row for each worker, for ``pandas``: its name, its number of examples, and its metrics.

        >>> EvaluationReport({"bob": {"val_acc": 0.5}}, {"bob": 8}).table()
        [{'worker': 'bob', 'examples': 8, 'val_acc': 0.5}]
        """
        own = {worker: {"worker": worker, **self._examples_of(worker)} for worker in self.workers}
        return [{**row, **beside(row, self.workers[worker])} for worker, row in own.items()]

    def __repr__(self) -> str:
        when = "" if self.round is None else f", after round {self.round}"
        if not self.workers and not self.metrics and not self.failures:
            return f"EvaluationReport: {self.note}"
        lines = [f"EvaluationReport{when}: {self._who()}"]
        lines += aligned(self._rows_of_metrics())
        lines += self._of_workers()
        lines += [f"left out: {failure}" for failure in self.failures]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the HTML for a notebook."""
        head, *_ = repr(self).splitlines()
        failures = "".join(f"<p>left out: {escape(str(failure))}</p>" for failure in self.failures)
        return f"<p>{escape(head)}</p>{in_html(self._rows_of_metrics())}{in_html(self._rows_of_workers())}{failures}"

    def _who(self) -> str:
        if not self.workers:
            return f"no workers, {self.note}"
        examples = f", {sum(self.examples.values())} examples" if self.examples else ""
        return f"{len(self.workers)} worker{'s' if len(self.workers) > 1 else ''}{examples}"

    def _rows_of_metrics(self) -> list[list[str]]:
        """The pooled value and the distribution of each metric, below a head."""
        table = by_metric(self.workers)
        rows = [["metric", "pooled", *(LABELS if table else ())]]
        for name in {**self.metrics, **table}:
            points = spread(table[name].values()) if name in table else {}
            rows.append([name, _short(self.metrics.get(name)), *(_short(points.get(label)) for label in rows[0][2:])])
        return rows if len(rows) > 1 else []

    def _of_workers(self) -> list[str]:
        """Every worker's row, or those of few."""
        if not by_metric(self.workers):
            return []
        if len(self.workers) > _MANY:
            metric = self._chosen()
            worst = ", ".join(f"{worker} {_short(value)}" for worker, value in self.worst(5, metric).items())
            return [f"worst by {metric} ({worst_decile(metric)} above): {worst}"]
        return aligned(self._rows_of_workers())

    def _rows_of_workers(self) -> list[list[str]]:
        """A row for each worker, or for each of the few of many that fare worst, below a head."""
        if not by_metric(self.workers):
            return []
        rows = self.table()
        if len(self.workers) > _MANY:
            worst = self.worst(5, self._chosen())
            rows = [row for worker in worst for row in rows if row["worker"] == worker]
        names = list(dict.fromkeys(name for row in rows for name in row))
        return [names, *([str(row["worker"]), *(_short(row.get(name)) for name in names[1:])] for row in rows)]

    def _examples_of(self, worker: str) -> dict[str, Any]:
        return {"examples": self.examples[worker]} if worker in self.examples else {}

    def _chosen(self) -> str:
        return foremost(by_metric(self.workers)) or ""

    def _values(self, metric: str) -> dict[str, float]:
        table = by_metric(self.workers)
        if not table:
            about = f" of {metric!r}" if metric else ""
            raise KeyError(f"no worker has a value{about}: {self.note}")
        if metric not in table:
            there = ", ".join(map(repr, table))
            near = "; it is one of all data together" if metric in self.metrics else nearest(str(metric), table)
            raise KeyError(f"no worker has a value of {metric!r}, but of {there}{near}")
        return table[metric]


def beside(row: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics under names that are free in a row: a name that is taken gets the prefix ``logged/``.

    >>> beside({"worker": "bob", "examples": 8}, {"val_acc": 0.5, "examples": 8.0})
    {'val_acc': 0.5, 'logged/examples': 8.0}
    """
    return {f"logged/{name}" if name in row else name: value for name, value in metrics.items()}


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
