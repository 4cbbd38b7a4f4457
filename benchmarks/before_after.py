"""Cost of a change: two checkouts of this repository take blocks of rounds in turn.

    git worktree add ../before COMMIT
    python benchmarks/before_after.py ../before [--kind linear mlp cnn] [--engine auto Vectorized] [--turns 16]

Prints, for each kind of the task and each engine, the median of the ratios of this checkout's time to the other's,
their quartiles, and milliseconds a round of both. Each checkout runs in a process of its own that waits while the other
is at work; who is first changes from turn to turn. Both run in this environment, with this checkout's benchmark.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import torch
from workload import KINDS, POPULATION, Classifier, WorkerData

import lightning_fed
from lightning_fed import FederatedDataModule, FederatedModule, engines
from lightning_fed._lightning import pl

HERE = Path(__file__).resolve().parent
BLOCKS = {"linear": 20, "mlp": 4, "cnn": 1}
"""Rounds in a block."""
ENGINES: dict[str, Callable[[], Any]] = {
    "auto": lambda: "auto",
    "Sequential": engines.Sequential,
    "Vectorized": engines.Vectorized,
}
WARMUP = 2
"""Turns that are not counted."""


class Blocks(pl.Callback):
    """Waits for a line before a block, and prints its seconds after it; ends the fit with its input."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self._done = 0
        self._since = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> int | None:
        if self._done % self._rounds == 0:
            if not sys.stdin.readline():
                trainer.should_stop = True
                return -1
            self._since = time.perf_counter()
        return None

    def on_train_batch_end(self, *_: Any) -> None:
        self._done += 1
        if self._done % self._rounds == 0:
            print(time.perf_counter() - self._since, flush=True)


def run(checkout: Path, kind: str, engine: str, threads: int) -> None:
    """Be one of the two: train until the input ends."""
    if not Path(lightning_fed.__file__).is_relative_to(checkout):
        sys.exit(f"{lightning_fed.__file__} does not belong to {checkout}")
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    data = FederatedDataModule(
        {f"worker_{i:03}": WorkerData(kind, i) for i in range(POPULATION)},
        cohort_size=KINDS[kind].cohort,
        rounds_per_epoch=50,
    )
    for name in data.names:
        data.pool[name].batches  # noqa: B018
    with tempfile.TemporaryDirectory() as logs:
        pl.Trainer(
            max_epochs=-1,
            accelerator="cpu",
            default_root_dir=logs,
            callbacks=[Blocks(BLOCKS[kind])],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(FederatedModule(Classifier(kind), engine=ENGINES[engine]()), data)


class Side:
    """One checkout's process."""

    def __init__(self, checkout: Path, kind: str, engine: str, threads: int) -> None:
        command = [sys.executable, str(HERE / "before_after.py"), str(checkout), "--run"]
        self._process = subprocess.Popen(
            [*command, "--kind", kind, "--engine", engine, "--threads", str(threads)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(checkout), str(HERE)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def block(self) -> float:
        """Run a block of rounds; returns its seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(file=self._process.stdin, flush=True)
        seconds = self._process.stdout.readline()
        if not seconds:
            sys.exit("a process has ended; what it said stands above")
        return float(seconds)

    def end(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def compare(before: Path, kind: str, engine: str, turns: int, threads: int) -> str:
    """A line of the table."""
    sides = [Side(checkout, kind, engine, threads) for checkout in (HERE.parent, before)]
    times: list[tuple[float, float]] = []
    for turn in range(WARMUP + turns):
        first = turn % 2
        one, other = sides[first].block(), sides[1 - first].block()
        times.append((other, one) if first else (one, other))
    for side in sides:
        side.end()
    counted = times[WARMUP:]
    low, middle, high = quantiles(now / then for now, then in counted)
    now, then = (1e3 * median(side) / BLOCKS[kind] for side in zip(*counted, strict=True))
    return f"| {engine} | {kind} | {middle:.2f} | {low:.2f} to {high:.2f} | {now:.1f} | {then:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="the other checkout")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=["linear", "mlp"])
    parser.add_argument("--engine", nargs="+", choices=ENGINES, default=["auto"])
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    before = options.before.resolve()
    if options.run:
        run(before, options.kind[0], options.engine[0], options.threads)
        return
    print("| engine | kind | now / before | quartiles | ms a round | before |\n|---|---|---|---|---|---|")
    for kind in options.kind:
        for engine in options.engine:
            print(compare(before, kind, engine, options.turns, options.threads), flush=True)


if __name__ == "__main__":
    main()
