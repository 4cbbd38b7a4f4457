"""The command ``lightning-fed compare``: a table, or a plot, of finished runs over seeds."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lightning_fed.cli.commands import refuse
from lightning_fed.cli.one_line_parser import OneLineParser
from lightning_fed.reports.places import runs_below

if TYPE_CHECKING:
    from lightning_fed.reports.comparison import Comparison

_PROGRAM = "lightning-fed compare"
_FORMATS = ("md", "latex", "csv")
_DESCRIPTION = """Compare finished runs. Those that differ in nothing but seeds are one row: mean and standard \
deviation of a metric, the worst decile of the workers, what it cost, and the difference to the first row at equal \
seeds. The caption says by which rule a value was taken of a run. Runs that differ in data, partition, metric or \
evaluation are refused."""


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed compare``.

    Raises:
        SystemExit: With status 2 if an argument is wrong, or the runs cannot be compared.
    """
    args = _parser().parse_args(list(arguments))
    try:
        _check_plot(args.plot)
        runs_below(args.runs)
        from lightning_fed.reports.comparison import compare  # imports torch, which is slow

        found = compare(args.runs, args.metric, args.rule, args.target, args.anyway)
        text = _text(found, args.format)
        if args.plot is not None:
            found.draw(args.plot)
    except (ImportError, OSError, ValueError) as error:
        refuse(" ".join(str(error).split()), _PROGRAM)
    print(text)
    if args.format == "csv":  # in which there is no place for it
        sys.stderr.write(f"{found.caption}\n")
    if args.plot is not None:
        sys.stderr.write(f"The curves are in {args.plot}.\n")


def _text(found: Comparison, form: str) -> str:
    if form == "csv":
        return found.as_csv()
    return found.as_latex() if form == "latex" else found.as_markdown()


def _check_plot(path: Path | None) -> None:
    """Refuse a place where no picture can be, before anything is read."""
    if path is None:
        return
    if path.is_dir() or not path.suffix:
        raise ValueError(f"--plot {path} must be the name of a file, such as {path / 'curves.png'}")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"--plot {path}: there is no folder {path.parent}; make it first")


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        usage=f"{_PROGRAM} RUN... [--metric NAME] [--rule RULE] [--target VALUE] [--format FORMAT] [--plot FILE]",
        description=_DESCRIPTION,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a folder with records in it or below it")
    parser.add_argument("--metric", metavar="NAME", help="by default the first one of which high values are better")
    parser.add_argument(
        "--rule", default="last", help="which evaluations of a run count: last (the default), best, or mean:10"
    )
    parser.add_argument(
        "--target", type=_number, metavar="VALUE", help="show rounds and MB to this value of the metric"
    )
    parser.add_argument("--format", choices=_FORMATS, default="md", help="md (the default), latex or csv (unrounded)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the curves, with bands: curves.png or .pdf")
    parser.add_argument("--anyway", action="store_true", help="compare what differs in data, with a warning")
    return parser


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number")
    return value
