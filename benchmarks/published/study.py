"""Studies of published tables: their cells, runs whose results are kept, and the table that is printed.

A study is a list of cells. Each cell has our run, a loop by hand where that costs little, and what was published. A run
is a curve, accuracies in % by round, and the table shows one number of it. Curves are kept in a file of JSON lines as
soon as a run ends, and a run that is in the file is not done again: so a study can be stopped, and two processes can
divide it between them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, TypeAlias

import torch

Curve: TypeAlias = list[tuple[int, float]]
"""Accuracies in %, each with the number of rounds before it."""

Run: TypeAlias = Callable[[argparse.Namespace, int], Curve]
"""From the options of the command line and a seed to a curve."""

KEPT = Path(__file__).parents[1] / "results" / "published"
WAYS = ("ours", "by hand")


@dataclass(frozen=True)
class Published:
    """A number that somebody has published.

    Args:
        value: The number.
        source: Where it stands.
        spread: The standard deviation that stands with it; None: there is none.
        seen: Whether it was seen in that source, or a copy of it; else it is remembered, and proves nothing.
    """

    value: float
    source: str
    spread: float | None = None
    seen: bool = True

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" ± {self.spread:g}"
        return f"{self.value:g}{spread} ({self.source}{'' if self.seen else ', from memory'})"


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Args:
        name: Its name, by which the command line chooses it.
        ours: Comes to it with lightning_fed; None: only the loop does, to test a reason for a difference.
        by_hand: Comes to it without; None: nothing does.
        published: What it is compared with.
        value: What the table shows of a curve; NaN where a curve does not show it.
    """

    name: str
    ours: Run | None
    by_hand: Run | None = None
    published: tuple[Published, ...] = ()
    value: Callable[[Curve], float] = lambda curve: curve[-1][1]


def best(curve: Curve) -> float:
    """The best accuracy of a curve."""
    return max(accuracy for _, accuracy in curve)


def rounds_to(target: float) -> Callable[[Curve], float]:
    """The rounds that a curve takes to an accuracy, as McMahan et al. 2017 are remembered to count them.

    The curve is made monotone by the best accuracy so far, and crossed by linear interpolation.
    """

    def rounds(curve: Curve) -> float:
        before, reached = 0, -math.inf
        for at, accuracy in curve:
            if accuracy >= target:
                if math.isinf(reached):
                    return float(at)
                return before + (at - before) * (target - reached) / (accuracy - reached)
            before, reached = at, max(reached, accuracy)
        return math.nan

    return rounds


@dataclass(frozen=True)
class Ratio:
    """A ratio of two cells, which does not depend on what both have in common.

    Args:
        name: Its name.
        of: The name of one cell.
        to: The name of the other.
        published: The published ratio.
    """

    name: str
    of: str
    to: str
    published: float


@dataclass(frozen=True)
class Separation:
    """A pair of cells that are to differ by more than their seeds do.

    Args:
        of: The name of one cell.
        from_: The name of the other.
    """

    of: str
    from_: str


class Study:
    """A published table, as a command.

    Args:
        name: The name of its file of results.
        text: What ``--help`` says: the table, its source, its settings, what it costs.
        cells: Its cells.
        rounds: The number of rounds of every run.
        what: What a cell's number is.
        data: The folders of data it needs, by the name of an option.
        ratios: Ratios of cells, for a table of their own.
        ways: Of the two ways to a cell those that are gone if the command line does not say.
        separations: Pairs of cells, for a table of their own.
    """

    def __init__(
        self,
        name: str,
        text: str,
        cells: Sequence[Cell],
        rounds: int,
        what: str = "accuracy, %",
        data: Sequence[str] = (),
        ratios: Sequence[Ratio] = (),
        ways: Sequence[str] = WAYS,
        separations: Sequence[Separation] = (),
    ) -> None:
        self.name, self.text, self.cells, self.rounds, self.what = name, text, cells, rounds, what
        self.data, self.ratios, self.ways, self.separations = data, ratios, ways, separations

    def main(self) -> None:
        """Do what the command line says."""
        parser = self._parser()
        options = parser.parse_args()
        torch.set_num_threads(options.threads)
        cells = [cell for cell in self.cells if any(fnmatch(cell.name, pattern) for pattern in options.only)]
        if not cells:
            parser.error(f"there is no cell {options.only}; there are: {', '.join(cell.name for cell in self.cells)}")
        if not options.table:
            for seed in options.seeds:
                for cell in cells:
                    for way in options.ways:
                        self._run(cell, way, seed, options)
        curves = kept(options.kept, options.rounds)
        print(self.table(cells, curves))
        names = {cell.name for cell in cells}
        ratios = [ratio for ratio in self.ratios if {ratio.of, ratio.to} <= names]
        separations = [pair for pair in self.separations if {pair.of, pair.from_} <= names]
        if ratios:
            print(f"\n{self.table_of_ratios(ratios, curves)}")
        if separations:
            print(f"\n{self.table_of_separations(separations, curves)}")

    def _parser(self) -> argparse.ArgumentParser:
        parser = argparse.ArgumentParser(
            description=self.text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            epilog="cells:\n" + "".join(f"  {cell.name}\n" for cell in self.cells),
        )
        add, default = parser.add_argument, "(default: %(default)s)"
        for option in self.data:
            text = f"where its four IDX files are {default}"
            add(f"--{option}", metavar="FOLDER", default=f"data/{option}", help=text)
        add("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="N", help="one run for each (default: 0 1 2)")
        add(
            "--only", nargs="+", default=["*"], metavar="CELL", help="names of cells, or patterns with * (default: all)"
        )
        text = f"which runs are made (default: {' and '.join(self.ways)})"
        add("--ways", nargs="+", default=list(self.ways), choices=WAYS, help=text)
        text = f"of a run; runs of another number are kept apart {default}"
        add("--rounds", type=int, default=self.rounds, metavar="N", help=text)
        text = f"where runs are kept (default: {self.name}.jsonl in benchmarks/results/published)"
        add("--kept", type=Path, default=KEPT / f"{self.name}.jsonl", metavar="FILE", help=text)
        add("--table", action="store_true", help="print what is kept, and run nothing")
        add("--threads", type=int, default=1, metavar="N", help=f"of torch {default}")
        return parser

    def _run(self, cell: Cell, way: str, seed: int, options: argparse.Namespace) -> None:
        run = cell.ours if way == "ours" else cell.by_hand
        if run is None or (cell.name, way, seed) in kept(options.kept, options.rounds):
            return
        began, processor = time.perf_counter(), time.process_time()
        curve = run(options, seed)
        line = {
            **{"cell": cell.name, "way": way, "seed": seed, "rounds": options.rounds},
            **{
                "seconds": round(time.perf_counter() - began, 1),
                "processor": round(time.process_time() - processor, 1),
            },
            "torch": torch.__version__,
            "curve": [[at, round(accuracy, 4)] for at, accuracy in curve],
        }
        options.kept.parent.mkdir(parents=True, exist_ok=True)
        with options.kept.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{cell.name}, {way}, seed {seed}: {cell.value(curve):.2f} ({line['seconds']:.0f} s)", flush=True)

    def table(self, cells: Sequence[Cell], curves: dict[tuple[str, str, int], Curve]) -> str:
        """Return the table of what is there, in Markdown."""
        lines = [
            f"{self.what}; mean ± standard deviation (seeds); {platform.machine()}, torch {torch.__version__}",
            "",
            "| | ours | by hand | published | ours is within |",
            "|---|---|---|---|---|",
        ]
        for cell in cells:
            ours, by_hand = (
                [cell.value(curve) for (name, by, _), curve in curves.items() if (name, by) == (cell.name, way)]
                for way in WAYS
            )
            published = "; ".join(map(str, cell.published)) or "–"
            row = (cell.name, Spread(ours), Spread(by_hand), published, agreement(ours, by_hand, cell.published))
            lines.append("| " + " | ".join(map(str, row)) + " |")
        return "\n".join(lines)

    def table_of_ratios(self, ratios: Sequence[Ratio], curves: dict[tuple[str, str, int], Curve]) -> str:
        """Return the table of ratios of what is there, in Markdown."""
        lines = ["ratio of the means", "", "| | ours | by hand | published |", "|---|---|---|---|"]
        for ratio in ratios:
            found = []
            for way in WAYS:
                of, to = (self._values(curves, name, way) for name in (ratio.of, ratio.to))
                found.append(f"{statistics.fmean(of) / statistics.fmean(to):.2f}" if of and to else "–")
            lines.append("| " + " | ".join([ratio.name, *found, f"{ratio.published:.2f}"]) + " |")
        return "\n".join(lines)

    def table_of_separations(self, pairs: Sequence[Separation], curves: dict[tuple[str, str, int], Curve]) -> str:
        """Return the table of differences of what is there, in Markdown."""
        says = "difference of the means ± its standard error (their quotient)"
        lines = [says, "", "| | ours | by hand |", "|---|---|---|"]
        for pair in pairs:
            found = [
                separation(*(Spread(self._values(curves, name, way)) for name in (pair.of, pair.from_))) for way in WAYS
            ]
            lines.append("| " + " | ".join([f"{pair.of}, less {pair.from_}", *found]) + " |")
        return "\n".join(lines)

    def _values(self, curves: dict[tuple[str, str, int], Curve], name: str, way: str) -> list[float]:
        (value,) = (cell.value for cell in self.cells if cell.name == name)
        return [value(curve) for (cell, by, _), curve in curves.items() if (cell, by) == (name, way)]


@dataclass(frozen=True)
class Spread:
    """The numbers of a cell, one for each seed, with their mean and its error."""

    values: list[float]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.values)

    @property
    def error(self) -> float:
        """The standard error of the mean; infinite for one seed, of which nothing is known."""
        if len(self.values) < 2:
            return math.inf
        return statistics.stdev(self.values) / math.sqrt(len(self.values))

    def __str__(self) -> str:
        if not self.values:
            return "–"
        missing = sum(map(math.isnan, self.values))
        if missing:
            return f"not reached ({missing} of {len(self.values)})"
        spread = f" ± {statistics.stdev(self.values):.2f}" if len(self.values) > 1 else ""
        return f"{self.mean:.2f}{spread} ({len(self.values)})"


def separation(of: Spread, to: Spread) -> str:
    """Say by how much two means differ, and by how many standard errors of the difference."""
    if min(len(of.values), len(to.values)) < 2 or any(map(math.isnan, of.values + to.values)):
        return "–"
    difference, error = of.mean - to.mean, math.hypot(of.error, to.error)
    return f"{difference:+.2f} ± {error:.2f} ({abs(difference) / error if error else math.inf:.1f})"


def agreement(ours: list[float], by_hand: list[float], published: Sequence[Published]) -> str:
    """Say of what our mean is within three standard errors of the difference, or within the published spread."""
    if len(ours) < 2 or any(map(math.isnan, ours)):
        return "–"
    mine, found = Spread(ours), []
    if len(by_hand) > 1 and not any(map(math.isnan, by_hand)):
        loop = Spread(by_hand)
        if abs(mine.mean - loop.mean) <= 3 * math.hypot(mine.error, loop.error):
            found.append("by hand")
    for each in published:
        if each.seen and abs(mine.mean - each.value) <= max(each.spread or 0.0, 3 * mine.error):
            found.append(each.source)
    return ", ".join(found) or "neither"


def kept(path: Path, rounds: int) -> dict[tuple[str, str, int], Curve]:
    """Read the curves of so many rounds that a file has, by cell, way and seed."""
    if not path.exists():
        return {}
    lines: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().split(os.linesep) if line]
    return {
        (line["cell"], line["way"], line["seed"]): [(at, accuracy) for at, accuracy in line["curve"]]
        for line in lines
        if line["rounds"] == rounds
    }
