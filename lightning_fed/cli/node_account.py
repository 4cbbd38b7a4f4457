"""The command ``lightning-fed node-account``: the spent budgets of a node's workers, by the node's own account."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning_fed.cli.commands import refuse
from lightning_fed.cli.one_line_parser import OneLineParser

_PROGRAM = "lightning-fed node-account"


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed node-account``.

    Raises:
        SystemExit: With status 2 if an argument is wrong, or the account cannot be read; stderr then says why.
    """
    args = _parser().parse_args(list(arguments))
    if not args.folder.is_dir():
        refuse(f"there is no folder {args.folder}; give that of a node's account", _PROGRAM)
    try:
        rows = _rows(args)
    except (ImportError, OSError, TypeError, ValueError) as error:
        refuse(" ".join(str(error).split()), _PROGRAM)
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    if not rows:
        print(f"No worker has ever been charged in {args.folder}.")
        return
    width = max(len("worker"), *(len(row["worker"]) for row in rows))
    print(f"{'worker':<{width}}  {'rounds':>8}  {'hides':<8}  {'epsilon':>10}")
    for row in rows:
        epsilon = "none holds" if row["epsilon"] is None else f"{math.ceil(row['epsilon'] * 1e4) / 1e4:.4f}"
        print(f"{row['worker']:<{width}}  {row['rounds']:>8}  {row['hides']:<8}  {epsilon:>10}")
    print(f"\nOver all runs on this node, for delta = {args.delta:g}.")
    damaged = [row["worker"] for row in rows if row["damaged"]]
    if damaged:
        print(f"Lines that cannot be read count as the dearest trainings: of {', '.join(damaged)}.")


def _rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    from lightning_fed.node.account import NodeAccount

    account = NodeAccount(args.folder)
    rows = []
    for worker in account.workers:
        of = account.of(worker)
        epsilon = of.epsilon(args.delta)
        finite = epsilon if math.isfinite(epsilon) else None
        rows.append({"worker": worker, "rounds": of.rounds, "hides": of.unit, "epsilon": finite, "damaged": of.damaged})
    return rows


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        description="How often each worker of a node was trained, and the epsilon of all of that, over all runs, by "
        "the account that the node keeps itself.",
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the folder of the account, on the node")
    parser.add_argument("--delta", type=float, default=1e-5, help="the delta of it; 1e-5 by default")
    parser.add_argument("--json", action="store_true", help="as JSON")
    return parser
