"""View of a run's record: the chosen metric, its values over rounds and workers, and the participation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, final

from lightning_fed.core.arguments import nearest
from lightning_fed.core.direction import better, foremost, worst_decile
from lightning_fed.core.spread import point
from lightning_fed.record import Origin, RunRecord, whole
from lightning_fed.record.files import RUN
from lightning_fed.reports.run.facts import need
from lightning_fed.reports.run.schema import check_record

_STAGES = ("val", "validate", "test")
"""Kinds of evaluations, those of the fit itself first."""


@final
@dataclass(frozen=True)
class View:
    """A run's record, as the sections of a report use it.

    Args:
        record: The record, with what earlier folders of the run record.
        wanted: The metric that the user chooses; None: the first one whose high values are better, else the first one.
        origin: Where the run came from, if it did not begin in its folder.

    Raises:
        ValueError: If the metric is not among those that were evaluated.
    """

    record: RunRecord
    wanted: str | None = None
    origin: Origin | None = None

    @staticmethod
    def of(record: RunRecord, wanted: str | None = None) -> View:
        """Return the view of a run, with what earlier folders of it record.

        Args:
            record: The record in the run's folder.
            wanted: See the class.

        Raises:
            MissingFactError: If its files lack a required fact.
        """
        check_record(record)
        joined, origin = whole(record)
        for earlier in () if origin is None else origin.records:
            check_record(earlier, is_cut=True)
        return View(joined, wanted, origin)

    def __post_init__(self) -> None:
        if self.wanted is not None and self.wanted not in self.metrics:
            there = ", ".join(self.metrics) or "none, as nothing was evaluated"
            near = nearest(self.wanted, self.metrics)
            raise ValueError(f"there is no metric {self.wanted!r} in {self.file}{near}; there are: {there}")

    def fact(self, name: str, what: str) -> Any:
        """Return a fact of ``run.json``; see :func:`~lightning_fed.reports.run.facts.need`."""
        return need(self.record.run, name, what, self.file)

    @property
    def file(self) -> Path:
        """The file of the facts about the run."""
        return self.record.folder / RUN

    @property
    def missing(self) -> int:
        """The number of rounds, from the first one on, whose record was not found."""
        return 0 if self.origin is None else self.origin.missing

    @property
    def over(self) -> int:
        """The number of finished rounds, including those before the checkpoint of a resumed run."""
        last, began = self.record.rounds[-1:], self.record.run["fits"][-1:]
        return next(iter((*(int(line["round"]) + 1 for line in last), *(int(fit["round"]) for fit in began))), 0)

    @cached_property
    def promise(self) -> Mapping[str, Any] | None:
        """The promise to the workers; None: there is none."""
        promise: Mapping[str, Any] | None = self.fact("promise", "whether anything was promised")
        return promise

    @cached_property
    def hidden(self) -> bool:
        """Whether the promise hides participation and the reports of single workers."""
        if self.promise is None:
            return False
        what = "whether metrics of workers were released"
        return not need(self.promise, "release_metrics", what, f"the promise in {self.file}")

    @cached_property
    def evaluations(self) -> Sequence[Mapping[str, Any]]:
        """Evaluations of one kind, in the order of rounds: those of the fit, else those after it."""
        for stage in _STAGES:
            there = [line for line in self.record.evaluations if line["stage"] == stage]
            if there:
                return sorted(there, key=lambda line: int(line["round"]))
        return ()

    @cached_property
    def metrics(self) -> Sequence[str]:
        """The names of the metrics that were evaluated."""
        names = dict.fromkeys(name for line in self.evaluations for name in line["metrics"])
        return [name for name in names if name != "epoch" and not name.startswith(("workers/", "worker/"))]

    @cached_property
    def metric(self) -> str | None:
        """The chosen metric."""
        if self.wanted is not None:
            return self.wanted
        return foremost(self.metrics)

    def last(self, metric: str) -> Mapping[str, Any] | None:
        """Return the last evaluation of a metric, finite or not; None: there is none."""
        return next((line for line in reversed(self.evaluations) if metric in line["metrics"]), None)

    def not_finite(self, metric: str) -> Sequence[str]:
        """Return the workers whose value of a metric is not finite in its last evaluation."""
        workers = (self.last(metric) or {}).get("workers") or {}
        own = metric.removesuffix("_epoch")
        return [worker for worker, each in workers.items() if each.get(metric, each.get(own, ...)) is None]

    def pooled(self, metric: str) -> list[tuple[int, float]]:
        """Return rounds and values of a metric over all workers, or of central data; those that are finite."""
        points = [(int(line["round"]) + 1, line["metrics"].get(metric)) for line in self.evaluations]
        return [(round, float(value)) for round, value in points if value is not None]

    def of_workers(self, metric: str, line: Mapping[str, Any] | None = None) -> dict[str, float]:
        """Return each worker's value of a metric in an evaluation.

        Args:
            metric: The metric's name.
            line: The evaluation; None: the last one of the metric.
        """
        if line is None:
            line = self.last(metric)
        workers = {} if line is None or not line["workers"] else line["workers"]
        own = metric.removesuffix("_epoch")
        values = {worker: each.get(metric, each.get(own)) for worker, each in workers.items()}
        return {worker: float(value) for worker, value in values.items() if value is not None}

    @cached_property
    def values(self) -> Mapping[str, float]:
        """Each worker's value of the chosen metric, in its last evaluation."""
        return {} if self.metric is None else self.of_workers(self.metric)

    @cached_property
    def lost(self) -> frozenset[str]:
        """The workers whose value of the chosen metric is not finite in its last evaluation."""
        return frozenset() if self.metric is None else frozenset(self.not_finite(self.metric))

    @cached_property
    def examples(self) -> Mapping[str, float]:
        """The number of examples in each worker's evaluation, from the last evaluation that records it."""
        lines = (line.get("examples") for line in reversed(self.evaluations))
        return next((each for each in lines if isinstance(each, dict)), {})

    @cached_property
    def bands(self) -> list[tuple[int, float, float]]:
        """Rounds, and the 10 % and 90 % quantiles over workers of the chosen metric."""
        points = []
        for line in self.evaluations:
            values = list(self.of_workers(self.metric or "", line).values())
            if len(values) > 1:
                points.append((int(line["round"]) + 1, point(values, "p10"), point(values, "p90")))
        return points

    @cached_property
    def asked(self) -> Counter[str]:
        """The number of jobs of each worker, in rounds whose cohort is recorded."""
        return Counter(worker for line in self.record.rounds for worker in line.get("cohort") or ())

    @cached_property
    def absent(self) -> Counter[str]:
        """The number of rounds in which each worker was absent or its update was lost."""
        return Counter(worker for line in self.record.rounds for worker in line.get("dropped") or ())

    @cached_property
    def failed(self) -> Counter[str]:
        """The number of rounds in which each worker's training failed."""
        return Counter(each["worker"] for line in self.record.rounds for each in line.get("failures") or ())

    @cached_property
    def late(self) -> Counter[str]:
        """The number of rounds in which each worker did only a part of its training."""
        return Counter(worker for line in self.record.rounds for worker in line.get("stragglers") or ())

    def took_part(self, worker: str) -> int:
        """Return the number of rounds to which a worker has contributed."""
        return self._contributed[worker]

    @cached_property
    def _contributed(self) -> Counter[str]:
        """The number of rounds with each worker's contribution; accumulated cohorts of one round count once each."""
        rounds: Counter[str] = Counter()
        for line in self.record.rounds:
            trained = Counter(line.get("cohort") or ())
            trained.subtract(line.get("dropped") or ())
            trained.subtract(each["worker"] for each in line.get("failures") or ())
            rounds.update((+trained).keys())
        return rounds

    @cached_property
    def names(self) -> Sequence[str]:
        """The workers in the record: those of cohorts, and those of evaluations."""
        evaluated = (worker for line in self.evaluations for worker in line["workers"] or ())
        return list(dict.fromkeys((*self.asked, *evaluated)))

    def total(self, name: str) -> float | None:
        """Return the sum of something over rounds; None: it is hidden, or nothing was recorded."""
        values = [line[name] for line in self.record.rounds if line.get(name) is not None]
        return sum(values) if values else None


def deciles(metric: str, values: Mapping[str, float]) -> tuple[float, frozenset[str]]:
    """Return the border of the worst decile over workers, and the workers in it.

    Args:
        metric: The metric's name, which determines whether low or high values are bad.
        values: Each worker's value.
    """
    border = point(values.values(), worst_decile(metric))
    if better(metric) == "max":
        return border, frozenset(worker for worker, value in values.items() if value <= border)
    return border, frozenset(worker for worker, value in values.items() if value >= border)


def worst_first(metric: str, values: Mapping[str, float]) -> list[str]:
    """Return workers in the order of their values, the worst first; equal ones by name.

    Args:
        metric: The metric's name.
        values: Each worker's value.
    """
    sign = 1 if better(metric) == "max" else -1
    return sorted(values, key=lambda worker: (sign * values[worker], worker))
