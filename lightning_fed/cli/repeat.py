"""The command ``lightning-fed repeat``: one fit for each seed, each in a process and a folder of its own."""

from __future__ import annotations

import argparse
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from lightning_fed.cli.children import Children, Ended, python
from lightning_fed.cli.commands import refuse
from lightning_fed.cli.one_line_parser import OneLineParser
from lightning_fed.cli.seed_runs import SeedRuns

_PROGRAM = "lightning-fed repeat"
_DONE = "completed"
_LARGEST = 2**32 - 1
_MOST = 10_000
_DESCRIPTION = """Run a fit once for each seed: the initial weights, cohorts, batch orders and dropout follow the
seed, the partition only with --vary_partition true. Runs lie in one folder, as seed=0, seed=1 and so on, beside what
each has printed. A seed that fails ends no other; one that has finished before is not run again. `lightning-fed compare
FOLDER` makes a table of them."""


def main(arguments: Sequence[str]) -> None:
    """Run the command.

    Args:
        arguments: The words after ``lightning-fed repeat``.

    Raises:
        SystemExit: With status 2 if an argument is wrong, 1 if a seed failed, 130 if the command was interrupted.
    """
    args = _parser().parse_args(list(arguments))
    words = args.fit[1:] if args.fit[:1] == ["--"] else args.fit
    _check(words)
    config = _config_of(words, args.seeds[0])
    try:
        runs = SeedRuns.of(words, config, args.folder)
        runs.note(shlex.join(["lightning-fed", *words]))
    except (OSError, ValueError) as error:
        refuse(str(error), _PROGRAM)
    fixed = (config.get("data") or {}).get("seed")
    if fixed is not None:
        _say(f"data.seed={fixed} is given: all runs have the same cohorts and batch orders; leave it out to vary them")
    raise SystemExit(_run(runs, words, args.seeds, args.jobs, args.again))


def seeds_of(text: str) -> list[int]:
    """Read seeds.

    Args:
        text: Numbers with commas between them, or ranges with two dots that include both ends.

    Raises:
        argparse.ArgumentTypeError: If it is something else, or names a seed twice.

    >>> seeds_of("0..3"), seeds_of("0,2,5"), seeds_of("1..2,7")
    ([0, 1, 2, 3], [0, 2, 5], [1, 2, 7])
    """
    seeds: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d{1,10})(?:\.\.(\d{1,10}))?\s*", part)
        if found is None:
            raise argparse.ArgumentTypeError(f"{text!r} must be seeds such as 0..4 or 0,2,5")
        first = int(found[1])
        last = first if found[2] is None else int(found[2])
        if not first <= last <= _LARGEST or last - first >= _MOST:
            raise argparse.ArgumentTypeError(
                f"{text!r} must be at most {_MOST} seeds from 0 to {_LARGEST}, the smaller one first: 0..4"
            )
        seeds += range(first, last + 1)
    twice = next((seed for seed in seeds if seeds.count(seed) > 1), None)
    if twice is not None:
        raise argparse.ArgumentTypeError(f"{text!r} names the seed {twice} twice")
    return seeds


def _check(words: Sequence[str]) -> None:
    if not words:
        refuse(f"what to repeat is missing: {_PROGRAM} --seeds 0..4 -- fit -c toy", _PROGRAM)
    if words[0] != "fit":
        refuse(f"only fit can be repeated, not {words[0]!r}: {_PROGRAM} --seeds 0..4 -- fit -c toy", _PROGRAM)
    for word in words:
        option = word.partition("=")[0]
        if option == "--seed_everything":
            refuse(f"{option} is given by --seeds; leave it out", _PROGRAM)
        if option in ("-h", "--help", "--help-all", "--print_config"):
            refuse(f"{option} runs nothing that could be repeated: lightning-fed fit {option}", _PROGRAM)


def _config_of(words: Sequence[str], seed: int) -> Mapping[str, Any]:
    """The whole config of a command; a wrong one is refused here, once for all seeds."""
    command = [*python(), *words, "--seed_everything", str(seed), "--print_config"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    sys.stderr.write(said.stderr)
    if said.returncode:
        raise SystemExit(said.returncode)
    try:
        config = yaml.safe_load(said.stdout)
    except yaml.YAMLError:
        config = None
    if not isinstance(config, Mapping):
        refuse(f"lightning-fed {shlex.join(words)} prints no config with --print_config", _PROGRAM)
    return config


def _run(runs: SeedRuns, words: Sequence[str], seeds: Sequence[int], jobs: int, again: bool) -> int:
    """Run the seeds that are due; return the exit status."""
    finished = [] if again else [seed for seed in seeds if runs.outcome(seed) == _DONE]
    for seed in finished:
        _say(f"seed {seed}: has finished before, and is not run again without --again ({runs.run(seed)})")
    due = [seed for seed in seeds if seed not in finished]
    for seed in due:
        runs.put_aside(seed)
    commands = [[*python(), *words, "--seed_everything", str(seed), *runs.options(seed)] for seed in due]
    children = Children(commands, [runs.output(seed) for seed in due], _environment(jobs))
    failed: dict[int, str] = {}
    try:
        for ended in children.run(jobs):
            seed = due[ended.number]
            reason = _reason(ended, runs, seed)
            if reason:
                failed[seed] = reason
                _say(f"seed {seed}: failed after {ended.seconds:.0f} s: {reason} (all of it: {runs.output(seed)})")
            else:
                finished.append(seed)
                results = runs.results(seed)
                _say(f"seed {seed}: finished in {ended.seconds:.0f} s{results and ': '}{results} ({runs.run(seed)})")
    except KeyboardInterrupt:
        _say(f"interrupted, and all runs are ended: {_count(finished, seeds)}; the same command runs the others")
        return 130
    table = f"; lightning-fed compare {shlex.quote(str(runs.folder))} makes a table of them" if finished else ""
    _say(f"{_count(finished, seeds)}{table}")
    for seed in sorted(failed):
        _say(f"failed: seed {seed}: {failed[seed]}")
    return 1 if failed else 0


def _reason(ended: Ended, runs: SeedRuns, seed: int) -> str:
    """Why a run failed, in a line; empty if it did not."""
    if ended.error:
        return ended.error
    if ended.status < 0:
        return f"ended by {signal.Signals(-ended.status).name}"
    outcome = runs.outcome(seed)
    if ended.status == 0 and outcome in (_DONE, ""):
        return ""
    return last_line(runs.output(seed)) or f"exit status {ended.status} {outcome}"


def last_line(output: Path) -> str:
    """Return the line of an output about its end: the last line that names an error, else the last line.

    Args:
        output: The file.
    """
    try:
        with output.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 20_000))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").splitlines()]
    lines = [line for line in lines if line]
    errors = [line for line in lines if re.match(r"error: |[A-Za-z_][\w.]*(Error|Exception|Interrupt)\b", line)]
    return ([*lines[-1:], *errors[-1:]] or [""])[-1].removeprefix("error: ")


def _count(finished: Sequence[int], seeds: Sequence[int]) -> str:
    return f"{len(finished)} of {len(seeds)} seeds finished"


def _environment(jobs: int) -> dict[str, str]:
    """Return an environment in which parallel runs share the processors, unless the user sets a number."""
    share = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // jobs))} if jobs > 1 else {}
    return {"PYTHONUNBUFFERED": "1", **share, **os.environ}


def _say(line: str) -> None:
    print(line, flush=True)


def _parser() -> OneLineParser:
    parser = OneLineParser(
        prog=_PROGRAM,
        allow_abbrev=False,
        usage=f"{_PROGRAM} --seeds 0..4 [--jobs N] [--again] [--folder FOLDER] -- fit -c CONFIG ...",
        description=_DESCRIPTION,
    )
    parser.add_argument("--seeds", type=seeds_of, required=True, metavar="0..4", help="seeds, such as 0..4 or 0,2,5")
    parser.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="how many runs at a time (1)")
    parser.add_argument("--again", action="store_true", help="run seeds again that have finished")
    parser.add_argument(
        "--folder",
        type=Path,
        help="the folder of the runs; by default logs/CONFIG/ALGORITHM, with a number if another config lies there",
    )
    parser.add_argument("fit", nargs=argparse.REMAINDER, help="the command to repeat: fit and its options")
    return parser


def _jobs(text: str) -> int:
    if not re.fullmatch(r"[1-9]\d{0,3}", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be a positive integer")
    return int(text)
