"""The curves of a comparison: the mean over seeds, and a band of a standard deviation on each side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_fed.core.extras import empty_figure
from lightning_fed.reports.comparison.groups import Group
from lightning_fed.reports.comparison.spread import spread

# Okabe & Ito, *Color Universal Design*, 2008: told apart by everybody, without their yellow.
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_STYLES = ("-", "--", "-.", ":")


def draw(groups: Sequence[Group], metric: str, title: str, target: float | None, path: Path) -> None:
    """Draw the curves into a file.

    A curve is drawn at the rounds after which all runs of its group were evaluated.

    Args:
        groups: The groups.
        metric: The metric's name.
        title: The title.
        target: Where to draw a line; None: nowhere.
        path: The file; its suffix says which format.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If the file cannot be written.
        ValueError: If there is no such format.
    """
    figure = empty_figure(7, 4.5, "a plot", "examples")
    axes = figure.add_subplot()
    for number, group in enumerate(groups):
        color, style = _COLORS[number % len(_COLORS)], _STYLES[number // len(_COLORS) % len(_STYLES)]
        rounds, means, lows, highs = _band(group)
        marker = "o" if len(rounds) == 1 else None
        axes.plot(rounds, means, style, color=color, marker=marker, label=f"{group.label} ({len(group.runs)})")
        if len(group.runs) > 1:
            axes.fill_between(rounds, lows, highs, color=color, alpha=0.2, linewidth=0)
    if target is not None:
        axes.axhline(target, linestyle="--", linewidth=1, color="gray", label=f"target {target:g}")
    axes.set(xlabel="rounds", ylabel=metric)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_title(title, fontsize="medium")
    axes.legend(fontsize="small")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def _band(group: Group) -> tuple[list[int], list[float], list[float], list[float]]:
    """Rounds, means, and the band's lower and upper edge."""
    curves = [{evaluation.rounds: evaluation.value for evaluation in run.evaluations} for run in group.runs]
    rounds = [over for over in curves[0] if all(over in curve for curve in curves)]
    spreads = [found for over in rounds if (found := spread([curve[over] for curve in curves])) is not None]
    means = [found.mean for found in spreads]
    edges = [found.sd or 0.0 for found in spreads]
    lows = [mean - edge for mean, edge in zip(means, edges, strict=True)]
    highs = [mean + edge for mean, edge in zip(means, edges, strict=True)]
    return rounds, means, lows, highs
