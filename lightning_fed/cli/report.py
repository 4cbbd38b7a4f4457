"""The command ``lightning-fed report``: a page about a run, from its record."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from lightning_fed.cli.commands import refuse
from lightning_fed.cli.one_line_parser import OneLineParser

_SUFFIXES = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}
_PROGRAM = "lightning-fed report"


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed report``.

    Raises:
        SystemExit: With status 2 if an argument is wrong or the run's files lack a fact; stderr then says which.
    """
    args = _parser().parse_args(list(arguments))
    kind = args.format or _kind_of(args)
    try:
        text, rows, folder = _made(args, kind)
        _put(text, rows, _target_of(args, kind, folder))
    except KeyError as error:
        refuse(f"the record of {args.run} is damaged: it has no {error} where one belongs", _PROGRAM)
    except (ArithmeticError, ImportError, OSError, TypeError, ValueError) as error:
        refuse(" ".join(str(error).split()), _PROGRAM)


def _made(args: argparse.Namespace, kind: str) -> tuple[str, str | None, Path]:
    """Return the report as text, the rows of all workers if they go beside it, and the run's folder."""
    from lightning_fed.reports.run.place import record_at

    folder, checkpoint = record_at(args.run)  # before torch is imported, which is slow
    from lightning_fed.record import read
    from lightning_fed.reports.run.build import promise_of, report_of, rows_of_all
    from lightning_fed.reports.run.html import as_html
    from lightning_fed.reports.run.markdown import as_markdown
    from lightning_fed.reports.run.plain import as_json

    record = read(folder)
    render = {"html": as_html, "md": as_markdown, "json": as_json}[kind]
    if args.promise_only:
        return render(promise_of(record, checkpoint=checkpoint)), None, folder
    report = report_of(record, metric=args.metric, target=args.target, checkpoint=checkpoint)
    return render(report), rows_of_all(record, args.metric), folder


def _put(text: str, rows: str | None, file: Path | None) -> None:
    if file is None:
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
        if rows is not None:
            file.with_name("per_worker.csv").write_text(rows, encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{file} cannot be written ({error.strerror}); give another file by -o") from error
    print(file)


def _kind_of(args: argparse.Namespace) -> str:
    suffix = "" if args.output is None else args.output.suffix.lower()
    if suffix in _SUFFIXES:
        return _SUFFIXES[suffix]
    if suffix:
        there = ", ".join(_SUFFIXES)
        refuse(
            f"-o {args.output}: there is no report as {suffix}; end it with one of {there}, or say --format", _PROGRAM
        )
    return "md" if args.promise_only else "html"


def _target_of(args: argparse.Namespace, kind: str, folder: Path) -> Path | None:
    """Return the file to write; None: standard output."""
    if args.output is not None:
        return None if str(args.output) == "-" else Path(args.output)
    return folder / "report.html" if kind == "html" and not args.promise_only else None


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="Report on a run: curves, settings, workers, fairness, costs, what left each worker, what was "
        "promised, and how to repeat it. It is made from the run's record alone, and refused where a fact is missing.",
    )
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="the run's folder, a checkpoint in it, or a folder that holds one run"
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write it, or - for standard output; by default html goes to report.html in the run's folder, "
        "md and json to standard output",
    )
    parser.add_argument("--format", choices=("html", "md", "json"), help="by default what FILE ends with, or html")
    parser.add_argument("--metric", metavar="NAME", help="the metric to look at, such as val_acc")
    parser.add_argument(
        "--target", type=float, metavar="VALUE", help="say what it has cost until the metric reached it"
    )
    parser.add_argument("--promise-only", action="store_true", help="the privacy statement alone, by default as md")
    return parser
