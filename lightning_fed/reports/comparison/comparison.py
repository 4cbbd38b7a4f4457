"""A comparison of finished runs, as an object: rows, a caption, and methods that show both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import final

from lightning_fed.core.direction import better
from lightning_fed.reports.comparison.caption import caption_of
from lightning_fed.reports.comparison.cells import cells
from lightning_fed.reports.comparison.figure import draw
from lightning_fed.reports.comparison.formats import comma_separated, latex, markdown
from lightning_fed.reports.comparison.groups import Group, groups_of
from lightning_fed.reports.comparison.rules import Rule
from lightning_fed.reports.comparison.run import Run
from lightning_fed.reports.comparison.sameness import differences
from lightning_fed.reports.comparison.table import Row, rows_of


@final
@dataclass(frozen=True)
class Comparison:
    """The results of finished runs: a row for each group of runs that differ only in seeds.

    Args:
        metric: The metric's name.
        rule: The rule by which a run's curve becomes one value.
        target: The value to reach; None: none.
        rows: The rows, with numbers that are not rounded.
        caption: A description of the numbers, of the rule, and of the runs that were left out.
    """

    metric: str
    rule: str
    target: float | None
    rows: Sequence[Row]
    caption: str
    _groups: Sequence[Group] = field(repr=False, compare=False)

    def as_markdown(self) -> str:
        """Return the table in Markdown, with the caption below it."""
        return markdown(*cells(self.rows, self.metric, self.target), self.caption)

    def as_latex(self) -> str:
        """Return the table in LaTeX; it needs no package."""
        return latex(*cells(self.rows, self.metric, self.target), self.caption)

    def as_csv(self) -> str:
        """Return the rows as CSV, without rounding and without the caption."""
        return comma_separated([self._line(row) for row in self.rows])

    def draw(self, path: str | Path) -> None:
        """Draw the curves: the mean over seeds, and a standard deviation on each side.

        Args:
            path: The file; its suffix says which format.

        Raises:
            ImportError: If matplotlib is not installed.
            OSError: If the file cannot be written.
            ValueError: If there is no such format.
        """
        title = f"{self.metric}: mean ± standard deviation over seeds (number of seeds)\nrule of the table: {self.rule}"
        draw(self._groups, self.metric, title, self.target, Path(path))

    def _line(self, row: Row) -> dict[str, object]:
        reached, difference = row.reached, row.difference
        return {
            **row.differs,
            "metric": self.metric,
            "rule": self.rule,
            "mean": row.metric.mean,
            "sd": row.metric.sd,
            "n": row.metric.n,
            "worst_decile_mean": row.worst and row.worst.mean,
            "worst_decile_sd": row.worst and row.worst.sd,
            "rounds": row.rounds,
            "megabytes": row.megabytes,
            "target": self.target,
            "rounds_to_target": reached and reached.rounds,
            "megabytes_to_target": reached and reached.megabytes,
            "reached": reached and reached.runs,
            "seconds": row.seconds,
            "epsilon": row.epsilon,
            "difference_mean": difference and difference.mean,
            "difference_low": difference and difference.low,
            "difference_high": difference and difference.high,
            "pairs": difference and difference.n,
        }


def compared(
    runs: Sequence[Run],
    metric: str,
    rule: Rule,
    target: float | None = None,
    anyway: bool = False,
    left_out: Sequence[str] = (),
) -> Comparison:
    """Compare runs.

    Args:
        runs: At least two finished runs; those of the first one's settings are what the others are compared with.
        metric: The metric that their evaluations are of.
        rule: The rule by which a run's curve becomes one value.
        target: The value to reach; None: none.
        anyway: Whether runs are compared that differ in data, partition or evaluation, with a warning.
        left_out: Runs that are left out, each with the reason.

    Raises:
        ValueError: If the runs differ in data, partition or evaluation, or are too short for the rule.
    """
    groups = groups_of(runs)
    unlike = differences(groups)
    if unlike and not anyway:
        raise ValueError(
            f"these runs cannot be compared: {'; '.join(unlike)}; give runs that agree in it, or --anyway "
            "(anyway=True) for a table with a warning"
        )
    rows = rows_of(groups, rule, better(metric), target)
    caption = caption_of(groups, rows, metric, rule, target, unlike, left_out)
    return Comparison(metric, str(rule), target, rows, caption, groups)
