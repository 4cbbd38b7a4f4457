"""Sections about single workers: their participation, their metrics, and the fairness of the model."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from lightning_fed.core.direction import better
from lightning_fed.core.spread import LABELS, spread
from lightning_fed.reports.run.document import Block, Cell, Paragraph, Section, Table, counted
from lightning_fed.reports.run.view import View, deciles, worst_first

MOST = 50
"""The largest number of workers of which each has a row."""
_FEW = 10
CSV = "per_worker.csv"


def workers(view: View) -> Section:
    """Return a row for each worker; of many only the ten worst and the ten best.

    Args:
        view: The run.
    """
    population = view.fact("data", "how many workers there are").get("population")
    if view.hidden:
        text = "Who took part, and what single workers have reported, is hidden by the promise."
        public = "" if population is None else f" There are {population:,} workers; their number is public."
        return Section("Workers", (Paragraph(text + public),))
    names, head = view.names, columns(view)
    if not names:
        return Section("Workers", (Paragraph("No worker was asked to train, and none was evaluated."),))
    ordered, values = in_order(view), view.values
    worst = deciles(view.metric, values)[1] if view.metric is not None and len(values) > 1 else frozenset()
    blocks: list[Block] = []
    shown = ordered
    if len(ordered) > MOST:
        shown = [*ordered[:_FEW], *ordered[-_FEW:]]
        by = (
            f"the ten who fare worst and the ten who fare best by {view.metric}" if values else "the first and last ten"
        )
        blocks.append(Paragraph(f"{len(ordered):,} workers; shown are {by}. All of them are in {CSV}.", "", "small"))
    rows = tuple(row(view, worker) for worker in shown)
    marked = frozenset(number for number, worker in enumerate(shown) if worker in worst)
    blocks.append(Table(head, rows, marked))
    return Section("Workers", (*blocks, Paragraph(_summary(view, population))))


def columns(view: View) -> tuple[str, ...]:
    """Return the names of the columns of :func:`row`."""
    counts = tuple(name for name, _ in _counts(view))
    examples = ("examples evaluated",) if view.examples else ()
    metric = () if view.metric is None or not (view.values or view.lost) else (view.metric,)
    rounds = counted(len(view.record.rounds), "recorded round" if view.missing else "round")
    return ("worker", *examples, f"took part, of {rounds}", *counts, *metric)


def row(view: View, worker: str) -> tuple[Cell, ...]:
    """Return the record of a worker; columns without any value are left out.

    Args:
        view: The run.
        worker: Its name.
    """
    counts = tuple(counted[worker] for _, counted in _counts(view))
    examples: tuple[Cell, ...] = ()
    if view.examples:
        own = view.examples.get(worker)
        examples = (None if own is None else int(own),)
    value: Cell = "not finite" if worker in view.lost else view.values.get(worker)
    metric: tuple[Cell, ...] = (value,) if view.values or view.lost else ()
    return (worker, *examples, view.took_part(worker), *counts, *metric)


def _counts(view: View) -> list[tuple[str, Counter[str]]]:
    counts = [("absent", view.absent), ("failed", view.failed), ("straggler", view.late)]
    return [(name, counted) for name, counted in counts if counted]


def in_order(view: View) -> Sequence[str]:
    """Return the workers, the worst first; those without a value come last, by name."""
    values = view.values
    rest = sorted(name for name in view.names if name not in values)
    return [*worst_first(view.metric or "", values), *rest]


def table_of_all(view: View) -> str | None:
    """Return the rows of all workers as CSV; None: each has a row in the report, or workers are hidden.

    Args:
        view: The run.
    """
    if view.hidden or len(view.names) <= MOST:
        return None
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(columns(view))
    writer.writerows(row(view, worker) for worker in in_order(view))
    return written.getvalue()


def fairness(view: View) -> Section:
    """Return the distribution of each metric over workers.

    Args:
        view: The run.
    """
    rows: list[tuple[Cell, ...]] = []
    has_index = False
    for metric in view.metrics:
        values = view.of_workers(metric)
        if len(values) < 2:
            continue
        numbers = np.array(list(values.values()))
        is_fair = better(metric) == "max" and bool((numbers >= 0).all()) and bool(numbers.any())
        has_index |= is_fair
        worst = ", ".join(worst_first(metric, values)[:3])
        rows.append((metric, *spread(numbers).values(), jain(numbers) if is_fair else None, worst))
    lost = [paragraph for metric in view.metrics for paragraph in _lost(view, metric)]
    if not rows and lost:
        return Section("Fairness", tuple(lost))
    if not rows:
        why = "hidden by the promise" if view.hidden else "not recorded: workers were not evaluated one by one"
        return Section("Fairness", (Paragraph(f"Values of single workers are {why}."),))
    head = ("metric", *LABELS, "Jain index", "worst three")
    text = (
        "Every worker counts once. The Jain index is (Σx)² / (n Σx²): 1 where all fare alike, 1/n where one has all "
        "(Jain, Chiu & Hawe 1984); for metrics of which high values are the better ones."
    )
    blocks = (*lost, Table(head, tuple(rows)), *((Paragraph(text, "", "small"),) if has_index else ()))
    return Section("Fairness", blocks)


def _lost(view: View, metric: str) -> Iterator[Paragraph]:
    """Name the workers whose value of a metric is not finite."""
    lost = view.not_finite(metric)
    if lost:
        of = len(lost) + len(view.of_workers(metric))
        more = f" and {len(lost) - _FEW:,} more" if len(lost) > _FEW else ""
        text = f"{metric} is not finite for {len(lost):,} of {counted(of, 'worker')}: {', '.join(lost[:_FEW])}{more}"
        left = "; what follows leaves them out." if of > len(lost) + 1 else "."
        yield Paragraph(text + left, "Not finite", "warning")


def jain(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    """Return the fairness index of Jain, Chiu & Hawe (*A Quantitative Measure of Fairness*, DEC-TR-301, 1984).

    Args:
        values: What each has, not negative and not all 0; ``[n]``.

    >>> jain(np.array([1.0, 1.0])), jain(np.array([1.0, 0.0]))
    (1.0, 0.5)
    """
    return float(values.sum() ** 2 / (len(values) * (values**2).sum()))


def _summary(view: View, population: int | None) -> str:
    took = sum(view.took_part(name) > 0 for name in view.names)
    whole = "" if population is None else f" of {population:,}"
    since = f" after the first {counted(view.missing, 'round')}" if view.missing else ""
    says = [f"{took:,}{whole} workers took part at least once{since}"]
    for counts, one, more in (
        (view.failed, "training failed", "trainings failed"),
        (
            view.absent,
            "time a worker was away or its update was lost",
            "times a worker was away or its update was lost",
        ),
        (view.late, "time a worker did only a part of its training", "times a worker did only a part of its training"),
    ):
        number = sum(counts.values())
        says.append(f"{number:,} {one if number == 1 else more}")
    unnamed = sum(line.get("cohort", ()) is None for line in view.record.rounds)
    large = f" The cohorts of {counted(unnamed, 'round')} are too large to be named." if unnamed else ""
    return "; ".join(says) + "." + large
