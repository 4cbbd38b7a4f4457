"""A plot of ε over rounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lightning_fed.core.extras import empty_figure
from lightning_fed.privacy.extra import EXTRA, NEEDED_BY


def draw(curve: Sequence[tuple[int, float]], label: str, title: str, budget: float | None, path: Path) -> None:
    """Draw a curve into a file.

    Args:
        curve: Rounds and their costs.
        label: The label of the cost axis.
        title: The title.
        budget: The cost at which a line is drawn.
        path: The file; its suffix selects the format.

    Raises:
        ImportError: If matplotlib is not installed.
        OSError: If the file cannot be written.
        ValueError: If the format is unknown.
    """
    figure = empty_figure(7, 4.5, NEEDED_BY, EXTRA)
    axes = figure.add_subplot()
    rounds, values = zip(*curve, strict=True)
    axes.plot(rounds, values, marker="o", markersize=3)
    axes.annotate(f"{values[-1]:.3g}", curve[-1], xytext=(0, -14), textcoords="offset points", ha="center")
    if budget is not None:
        axes.axhline(budget, linestyle="--", linewidth=1, color="gray", label=f"budget {budget:g}")
        axes.legend(loc="lower right")
    axes.set(xlabel="rounds", ylabel=label, xlim=(0, None), ylim=(0, None))
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=150)
