"""Figures about single workers, by matplotlib's objects alone: no window, nothing that a notebook shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lightning_fed.core.direction import better

_MOST_NAMES = 60
"""Beyond it names on an axis cover each other."""
_MOST_COLUMNS = 400
"""Beyond it columns are thinner than what a screen shows."""
_MOST_IN_LEGEND = 20


def partition(counts: Mapping[str, Mapping[int, int]], sizes: Mapping[str, int], unseen: int = 0) -> Figure:
    """Draw what data each worker has: a bar of its examples, divided by label.

    Args:
        counts: The number of examples by worker and label; empty: there are no labels, and bars are plain.
        sizes: The number of examples of each worker.
        unseen: How many more workers there are.
    """
    names = list(sizes)
    figure, axes = _rows(names, "training examples" + (f" ({unseen} workers not seen yet)" if unseen else ""))
    places = np.arange(len(names))
    labels = sorted({label for own in counts.values() for label in own})
    if not labels:
        axes.barh(places, [sizes[name] for name in names], color="tab:blue")
    colours = _colours(len(labels))
    left = np.zeros(len(names))
    for label, colour in zip(labels, colours, strict=True):
        values = np.array([counts.get(name, {}).get(label, 0) for name in names], dtype=float)
        axes.barh(places, values, left=left, color=colour, label=str(label))
        left += values
    if 0 < len(labels) <= _MOST_IN_LEGEND:
        axes.legend(title="label", ncol=10, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    elif labels:
        axes.set_title(f"{len(labels)} labels, from dark ({labels[0]}) to bright ({labels[-1]})", fontsize=9)
    axes.set_xlim(left=0)
    return figure


def participation(names: Sequence[str], took_part: NDArray[np.bool_], first: int) -> Figure:
    """Draw who took part when: a row for each worker, a column for each round (or several, as a share of them).

    Args:
        names: All workers.
        took_part: Whether each sent an update; bool ``[rounds, workers]``.
        first: The number of the first round.
    """
    rounds = len(took_part)
    counts = took_part.sum(axis=0)
    figure, axes = _rows([f"{name} ({count})" for name, count in zip(names, counts, strict=True)], "round")
    every = -(-rounds // _MOST_COLUMNS)
    padded = np.full((-(-rounds // every) * every, len(names)), np.nan)
    padded[:rounds] = took_part
    shares = np.nanmean(padded.reshape(-1, every, len(names)), axis=1)
    axes.imshow(
        shares.T,
        aspect="auto",
        cmap="Blues",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(first - 0.5, first - 0.5 + len(shares) * every, len(names) - 0.5, -0.5),
    )
    axes.set_xlim(first - 0.5, first + rounds - 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_title("who sent an update, and how often", fontsize=9)
    return figure


def per_worker(metric: str, values: Mapping[str, float], pooled: float | None) -> Figure:
    """Draw one metric of all workers, the worst first; the worst decile red, the pooled value dashed.

    Args:
        metric: Its name.
        values: Finite values by worker.
        pooled: The value over all data; None: there is none.
    """
    high = better(metric) == "max"
    ordered = dict(sorted(values.items(), key=lambda item: item[1], reverse=not high))
    numbers = np.array(list(ordered.values()))
    decile = float(np.quantile(numbers, 0.1 if high else 0.9))
    is_worst = numbers <= decile if high else numbers >= decile
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    axes.bar(np.arange(len(numbers)), numbers, color=np.where(is_worst, "tab:red", "tab:blue").tolist())
    title = f"worst decile (red): {'at most' if high else 'at least'} {decile:.3g}"
    if pooled is not None:
        axes.axhline(pooled, linestyle="--", color="black", linewidth=1)
        title += f"; all data (dashed): {pooled:.3g}"
    axes.set_title(title, fontsize=9)
    axes.set_ylabel(metric)
    if len(ordered) <= _MOST_NAMES:
        axes.set_xticks(np.arange(len(ordered)), [_short(name) for name in ordered], rotation=90, fontsize=8)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(ordered)} workers, the worst first")
    return figure


def _rows(names: Sequence[str], xlabel: str) -> tuple[Figure, Axes]:
    """Make a figure with a row for each worker."""
    figure = Figure(figsize=(6.4, min(max(1.4 + 0.22 * len(names), 2.5), 10)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    if len(names) <= _MOST_NAMES:
        axes.set_yticks(np.arange(len(names)), [_short(name) for name in names], fontsize=8)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(names)} workers, in order")
    return figure, axes


def _short(name: str) -> str:
    # Two dollars in a name would be a formula.
    return (name if len(name) <= 24 else f"{name[:23]}…").replace("$", r"\$")


def _colours(count: int) -> list[Any]:
    if count <= 10:
        return [colormaps["tab10"](place) for place in range(count)]
    if count <= _MOST_IN_LEGEND:
        return [colormaps["tab20"](place) for place in range(count)]
    return [colormaps["viridis"](place / (count - 1)) for place in range(count)]
