"""The first sections of a report: how the run ended, the numbers in large print, and the curves."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lightning_fed.core.direction import better
from lightning_fed.reports.run.document import (
    Band,
    Bar,
    Bars,
    Block,
    Chart,
    Line,
    Paragraph,
    Section,
    Tile,
    Tiles,
    counted,
    written,
)
from lightning_fed.reports.run.view import View, deciles, worst_first

_MOST_BARS = 200
_MOST_NAMED = 10


def headline(view: View, epsilon: Tile) -> Section:
    """Return how the run ended, and its main numbers as tiles.

    Args:
        view: The run.
        epsilon: What is promised, as a tile.
    """
    return Section("", (*_ending(view), *_beginning(view), Tiles((*_tiles(view), epsilon))))


def curves(view: View) -> Section:
    """Return the metric and the loss over rounds, and the metric over workers.

    Args:
        view: The run.
    """
    blocks: list[Block] = [*_not_finite(view), *_metric_curve(view), *_loss_curve(view), *_bars(view)]
    if not blocks:
        hides = "; the promise hides the losses of training" if view.hidden else ""
        blocks = [Paragraph(f"Nothing was evaluated, so there is nothing to draw{hides}.")]
    elif view.hidden:
        blocks.append(
            Paragraph("Losses of training and values of single workers are hidden by the promise.", "", "small")
        )
    return Section("Curves", tuple(blocks))


def _ending(view: View) -> Iterator[Paragraph]:
    outcome = view.fact("outcome", "how the run ended")
    after = f"after {counted(view.over, 'round')}"
    if outcome == "running":
        yield Paragraph(
            f"It has no end in its record, {after}: it is still running, or its process was killed.",
            "Not over",
            "warning",
        )
    elif outcome != "completed":
        error = str(view.record.run.get("error") or "").rstrip(": ")
        how = "has failed" if outcome == "failed" else f"was {outcome}"
        yield Paragraph(f"The run {how} {after}{f': {error}' if error else ''}.", outcome.capitalize(), "warning")


def _beginning(view: View) -> Iterator[Paragraph]:
    origin = view.origin
    if origin is None:
        return
    went = f"It went on from {origin.checkpoint} after {counted(origin.after, 'round')}"
    folders = " and ".join(str(record.folder) for record in origin.records)
    if not origin.missing:
        yield Paragraph(f"{went}; those are recorded in {folders}, and are counted here.", "Went on")
        return
    yield Paragraph(
        f"{went}, and the first {counted(origin.missing, 'round')} are not counted here: {origin.why}. All numbers "
        f"are of the {counted(len(view.record.rounds), 'round')} that {'are' if folders else 'this folder has'} "
        f"recorded{f' here and in {folders}' if folders else ''}.",
        "The end of a run",
        "warning",
    )


def _tiles(view: View) -> Iterator[Tile]:
    metric = view.metric
    if metric is not None:
        points, last = view.pooled(metric), view.last(metric)
        value = None if last is None else last["metrics"][metric]
        if last is not None:
            yield Tile(f"{metric}, pooled", "not finite" if value is None else written(float(value)))
        if points:
            best = (max if better(metric) == "max" else min)(value for _, value in points)
            if best != value:
                yield Tile(f"{metric}, best{' recorded' if view.missing else ''}", written(best))
        values = view.of_workers(metric)
        if len(values) > 1:
            lost = len(view.not_finite(metric))
            some = f", {lost} without a finite value left out" if lost else ""
            yield Tile(f"worst decile of workers{some}", written(deciles(metric, values)[0]))
            yield Tile(f"spread (std) over workers{some}", written(float(np.std(list(values.values())))))
    recorded = f" in {counted(len(view.record.rounds), 'recorded round')}" if view.missing else ""
    yield Tile("rounds" + (f", {len(view.record.rounds)} of them recorded" if recorded else ""), written(view.over))
    up, down = view.total("bytes_up"), view.total("bytes_down")
    if up is not None and down is not None:
        yield Tile(f"sent up / down{recorded}", f"{written(up / 1e6)} / {written(down / 1e6)} MB")


def _not_finite(view: View) -> Iterator[Paragraph]:
    """Yield a remark about the rounds after which the metric was not finite, which a curve cannot show."""
    metric = view.metric or ""
    lines = [line for line in view.evaluations if metric in line["metrics"]]
    rounds = [int(line["round"]) + 1 for line in lines if line["metrics"][metric] is None]
    if rounds:
        some = ", ".join(map(str, rounds[:_MOST_NAMED])) + (" ..." if len(rounds) > _MOST_NAMED else "")
        yield Paragraph(
            f"{metric} was not finite in {len(rounds)} of {counted(len(lines), 'evaluation')}, after the rounds {some};"
            " a curve leaves those out.",
            "Not finite",
            "warning",
        )


def _metric_curve(view: View) -> Iterator[Chart]:
    metric = view.metric
    points = [] if metric is None else view.pooled(metric)
    if metric is None or not points:
        return
    bands = view.bands
    lines = [Line("pooled", tuple((float(x), y) for x, y in points))]
    band = None
    if bands:
        band = Band("p10 to p90 of workers", tuple((float(x), low, high) for x, low, high in bands))
        worst = tuple((float(x), low if better(metric) == "max" else high) for x, low, high in bands)
        lines.append(Line("worst decile", worst, is_worst=True))
    yield Chart(f"{metric} over rounds", "rounds", metric, tuple(lines), band)


def _loss_curve(view: View) -> Iterator[Chart]:
    points = [
        (float(line["round"]) + 1, float(line["loss"])) for line in view.record.rounds if line.get("loss") is not None
    ]
    if points:
        yield Chart("loss of the local training", "rounds", "loss", (Line("mean of the cohort", tuple(points)),))


def _bars(view: View) -> Iterator[Bars]:
    metric = view.metric
    values = {} if metric is None else view.of_workers(metric)
    if metric is None or not 1 < len(values) <= _MOST_BARS:
        return
    _, worst = deciles(metric, values)
    bars = tuple(Bar(worker, values[worker], worker in worst) for worker in worst_first(metric, values))
    level = (view.last(metric) or {"metrics": {}})["metrics"].get(metric)
    yield Bars(
        f"{metric} of each worker, the worst decile in red",
        "workers, the worst first",
        metric,
        bars,
        None if level is None else float(level),
    )
