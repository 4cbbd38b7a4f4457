"""Plots of a partition: numbers of examples by worker and label."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lightning_fed.core.extras import empty_figure, import_extra
from lightning_fed.datasets._dealing import flat
from lightning_fed.datasets.partition import Partition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_BARS = 50
"""The largest number of workers with a bar for each."""
MOST_LABELS = 100
"""The largest number of different labels; with more (real numbers, for example) a plot shows sizes only."""
MOST_NAMED = 20
"""The largest number of bars or labels with names."""
_WHAT = "a picture of a partition"


class LabelCounts(NamedTuple):
    """Numbers of examples of each label at each worker.

    Args:
        counts: int64 ``[workers, labels]``.
        workers: The workers' names, ``[workers]``.
        labels: The labels in their order, ``[labels]``; empty if labels are not distinguished, and ``counts`` are
            sizes, ``[workers, 1]``.
    """

    counts: NDArray[np.int64]
    workers: Sequence[str]
    labels: Sequence[str]


def count_labels(partition: Partition, labels: NDArray[Any] | None) -> LabelCounts:
    """Count the examples of each label at each worker.

    Args:
        partition: The partition.
        labels: The label of every example, ``[n]`` or ``[n, 1]``; None: labels are not distinguished, as with more
            than 100 different labels.

    Raises:
        ValueError: If there is not one label for each example.

    >>> from lightning_fed.datasets import NaturalIds
    >>> partition = NaturalIds(["bob", "bob", "alice"])(np.zeros(3))
    >>> count_labels(partition, np.array([5, 5, 7]))
    LabelCounts(counts=array([[0, 1],
           [2, 0]]), workers=('alice', 'bob'), labels=('5', '7'))
    """
    names, sizes = tuple(partition.iter_names()), partition.sizes()
    if labels is not None:
        known, numbers = np.unique(flat(labels), return_inverse=True)
        if len(numbers) != len(partition.indices):
            raise ValueError(
                f"labels: {len(numbers)} for {len(partition.indices)} examples; give one label per example"
            )
        if len(known) <= MOST_LABELS:
            owners = np.repeat(np.arange(len(sizes)), sizes)
            cells = owners * len(known) + numbers.reshape(-1)[partition.indices]
            counts = np.bincount(cells, minlength=len(sizes) * len(known)).reshape(len(sizes), len(known))
            return LabelCounts(counts.astype(np.int64), names, tuple(map(str, known)))
    return LabelCounts(sizes[:, None], names, ())


def draw_label_counts(table: LabelCounts, title: str = "") -> Figure:
    """Plot the numbers of examples by worker and label, in a figure outside of pyplot.

    Up to 50 workers have a bar each, stacked by label. More workers are shown as a map of the shares of labels, from
    the smallest worker to the largest, beside a histogram of their sizes.

    Args:
        table: The numbers of examples.
        title: The title.

    Returns:
        A matplotlib figure, for ``savefig``, a notebook or a logger.

    Raises:
        ImportError: If matplotlib is not installed; it comes with the extra ``examples``.
    """
    figure = empty_figure(8, 3.5, _WHAT, "examples")
    if len(table.workers) <= MOST_BARS:
        _draw_bars(figure, table)
    elif table.labels:
        shares, sizes = figure.subplots(1, 2, width_ratios=(3, 2))
        _draw_shares(figure, shares, table)
        _draw_sizes(sizes, table)
    else:
        _draw_sizes(figure.subplots(), table)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure  # type: ignore[no-any-return]


def _draw_bars(figure: Any, table: LabelCounts) -> None:
    axes = figure.subplots()
    workers, below = np.arange(len(table.workers)), np.zeros(len(table.workers), dtype=np.int64)
    colors = _colors(table.counts.shape[1])
    for number, counts in enumerate(table.counts.T):
        label = table.labels[number] if table.labels else None
        axes.bar(workers, counts, bottom=below, width=0.9, color=colors[number], label=label)
        below = below + counts
    axes.set_ylim(0, 1.05 * int(below.max()))
    if 0 < len(table.labels) <= MOST_NAMED:
        axes.legend(title="label", fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    if len(workers) <= MOST_NAMED:
        slanted = max(map(len, table.workers)) * len(workers) > 80
        axes.set_xticks(workers, table.workers, rotation=45 if slanted else 0, ha="right" if slanted else "center")
    axes.set(xlabel="" if len(workers) <= MOST_NAMED else "worker", ylabel="examples", xlim=(-0.6, len(workers) - 0.4))


def _draw_shares(figure: Any, axes: Any, table: LabelCounts) -> None:
    sizes = table.counts.sum(axis=1)
    order = np.argsort(sizes, kind="stable")
    shares = (table.counts / np.maximum(sizes, 1)[:, None])[order].T
    image = axes.imshow(shares, aspect="auto", interpolation="nearest", vmin=0, vmax=1, cmap="viridis")
    figure.colorbar(image, ax=axes, label="share of the worker's examples")
    axes.set(xlabel="workers, from the smallest to the largest", ylabel="label")
    if len(table.labels) <= MOST_NAMED:
        axes.set_yticks(np.arange(len(table.labels)), table.labels)


def _draw_sizes(axes: Any, table: LabelCounts) -> None:
    sizes = table.counts.sum(axis=1)
    axes.hist(sizes, bins=min(30, int(sizes.max() - sizes.min()) + 1), color="C0")
    axes.set(xlabel="examples of a worker", ylabel="workers")


def _colors(number: int) -> Any:
    maps = import_extra("matplotlib", _WHAT, "examples").colormaps
    if number <= 20:
        return maps["tab10" if number <= 10 else "tab20"].colors
    return maps["viridis"](np.linspace(0, 1, number))
