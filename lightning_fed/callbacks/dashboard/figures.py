"""Figures about single workers, by matplotlib's objects only, without pyplot's global state.

A run waits while they are drawn. For speed, bars are one collection and not an object each, and margins are computed
from the lengths of names and not by layout engines, which draw everything twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lightning_fed.callbacks.dashboard.labels import Label
from lightning_fed.core.direction import better, worst_decile
from lightning_fed.core.spread import point

_WIDTH = 6.4  # inches, as all lengths here
_MOST_NAMES = 60
"""The largest number of names on an axis that do not overlap."""
_MOST_COLUMNS = 400
"""The largest number of columns that a screen can show."""
_MOST_IN_LEGEND = 20


def partition(counts: Mapping[str, Mapping[Label, int]], sizes: Mapping[str, int], unseen: int = 0) -> Figure:
    """Draw the data of each worker: a bar of its examples, divided by label.

    Args:
        counts: The number of examples by worker and label; empty: without labels, bars are plain.
        sizes: The number of examples of each worker.
        unseen: The number of workers that are not shown.
    """
    names = list(sizes)
    labels = sorted({label for own in counts.values() for label in own})
    lines = -(-len(labels) // 10) if len(labels) <= _MOST_IN_LEGEND else 1
    figure, axes = _rows(names, "training examples" + (f" ({unseen} workers not seen yet)" if unseen else ""), lines)
    places = np.arange(len(names), dtype=float)
    left = np.zeros(len(names))
    if not labels:
        left = np.array([sizes[name] for name in names], dtype=float)
        axes.add_collection(_bars(places, np.zeros(len(names)), left, "tab:blue"))
    colours = _colours(len(labels))
    for label, colour in zip(labels, colours, strict=True):
        right = left + np.array([counts.get(name, {}).get(label, 0) for name in names], dtype=float)
        axes.add_collection(_bars(places, left, right, colour))
        left = right
    if 0 < len(labels) <= _MOST_IN_LEGEND:
        patches = [Patch(color=colour, label=_short(str(label))) for label, colour in zip(labels, colours, strict=True)]
        figure.legend(
            handles=patches, title="label", ncol=10, fontsize=8, title_fontsize=8, loc="upper center", frameon=False,
            handlelength=1, columnspacing=1,
        )  # fmt: skip
    elif labels:
        ends = [_short(str(label)) for label in (labels[0], labels[-1])]
        axes.set_title(f"{len(labels)} labels, from dark ({ends[0]}) to bright ({ends[1]})", fontsize=9)
    axes.set_xlim(0, max(float(left.max(initial=0)), 1) * 1.02)
    return figure


def participation(names: Sequence[str], took_part: NDArray[np.bool_], first: int) -> Figure:
    """Draw the participation: a row for each worker, a column for each round (or the share of several rounds).

    Args:
        names: All workers.
        took_part: Whether each sent an update; bool ``[rounds, workers]``.
        first: The number of the first round.
    """
    rounds = len(took_part)
    counts = took_part.sum(axis=0)
    figure, axes = _rows([f"{_short(name, 18)} ({count})" for name, count in zip(names, counts, strict=True)], "round")
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
        metric: The metric's name.
        values: The finite values by worker.
        pooled: The value over all data; None: unknown.
    """
    high = better(metric) == "max"
    ordered = dict(sorted(values.items(), key=lambda item: item[1], reverse=not high))
    numbers = np.array(list(ordered.values()))
    decile = point(numbers, worst_decile(metric))
    is_worst = numbers <= decile if high else numbers >= decile
    is_named = len(ordered) <= _MOST_NAMES
    names = [_short(name) for name in ordered]
    below = 0.25 + 0.075 * max(map(len, names)) if is_named else 0.5
    figure, axes = _axes(3.0 + below, left=0.75, below=below, above=0.35)
    places = np.arange(len(numbers), dtype=float)
    for worst, colour in ((True, "tab:red"), (False, "tab:blue")):
        some = is_worst == worst
        axes.add_collection(_bars(places[some], np.zeros(some.sum()), numbers[some], colour, upright=True))
    title = f"worst decile (red): {'at most' if high else 'at least'} {decile:.3g}"
    shown = [0.0, *numbers.tolist()]
    if pooled is not None and np.isfinite(pooled):
        axes.axhline(pooled, linestyle="--", color="black", linewidth=1)
        title += f"; all data (dashed): {pooled:.3g}"
        shown.append(pooled)
    axes.set_title(title, fontsize=9)
    axes.set_ylabel(metric)
    axes.set_xlim(-0.7, len(numbers) - 0.3)
    room = 0.03 * ((max(shown) - min(shown)) or 1)
    axes.set_ylim(min(shown) - (room if min(shown) < 0 else 0), max(shown) + room)
    if is_named:
        axes.set_xticks(np.arange(len(names)), names, rotation=90, fontsize=8)
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(ordered)} workers, the worst first")
    return figure


def _axes(height: float, left: float, below: float, above: float) -> tuple[Figure, Axes]:
    """Make a figure with margins of these lengths, in inches."""
    figure = Figure(figsize=(_WIDTH, height))
    axes = figure.add_axes((left / _WIDTH, below / height, 1 - (left + 0.15) / _WIDTH, 1 - (below + above) / height))
    return figure, axes


def _rows(names: Sequence[str], xlabel: str, legend_lines: int = 0) -> tuple[Figure, Axes]:
    """Make a figure with a row for each worker."""
    is_named = len(names) <= _MOST_NAMES
    shown = [_short(name, 30) for name in names]
    above = 0.35 if not legend_lines else 0.3 + 0.2 * legend_lines
    height = min(max(1.2 + above + 0.2 * len(names), 2.5), 9)
    figure, axes = _axes(height, 0.3 + (0.068 * max(map(len, shown)) if is_named else 0.2), below=0.5, above=above)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    if is_named:
        axes.set_yticks(np.arange(len(names)), shown, fontsize=8)
    else:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(names)} workers, in order")
    return figure, axes


def _bars(
    places: NDArray[np.float64],
    start: NDArray[np.float64],
    end: NDArray[np.float64],
    colour: Any,
    upright: bool = False,
) -> PolyCollection:
    """Return bars of one colour as one collection."""
    near, far = places - 0.4, places + 0.4
    corners = [(start, near), (end, near), (end, far), (start, far)]
    if upright:
        corners = [(across, along) for along, across in corners]
    vertices = np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)
    return PolyCollection(list(vertices), facecolors=colour, linewidths=0)


def _short(name: str, most: int = 24) -> str:
    # matplotlib renders text between two dollars as a formula.
    return (name if len(name) <= most else f"{name[: most - 1]}…").replace(r"\$", "$").replace("$", r"\$")


def _colours(count: int) -> list[Any]:
    if count <= 10:
        return [colormaps["tab10"](place) for place in range(count)]
    if count <= _MOST_IN_LEGEND:
        return [colormaps["tab20"](place) for place in range(count)]
    return [colormaps["viridis"](place / (count - 1)) for place in range(count)]
