"""Cost of a round: a hand-written PyTorch loop, ours with every engine, and other frameworks.

    python benchmarks/rounds.py [--kind linear mlp cnn] [--rounds N] [--repeats 3] [--only SUBSTRING ...] [--peers]

Prints a table for each kind: milliseconds a round (the whole run after a warm-up, divided by its rounds) and the ratio
to the loop, above 1 where a contender is faster. Every contender runs in a process of its own, all of them in turn, and
that several times over, because the speed of a machine drifts: a ratio is taken within one turn, and the medians over
the turns are printed. A contender that fails shows its error in place of a figure;
``python benchmarks/rounds.py --run NAME --kind KIND`` runs it alone.

The loop is the fastest one that a reader would write: no data loaders, no logging, no check for NaN, no randomness that
can be repeated. Ours is ``trainer.fit`` with TensorBoard, logging every 50 rounds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from stopwatch import WARMUP, Stopwatch
from torch import nn
from workload import BATCH, KINDS, LR, POINTS, POPULATION, Classifier, WorkerData, network, points

from lightning_fed import FederatedDataModule, FederatedModule, engines
from lightning_fed._lightning import pl

HERE = Path(__file__).resolve().parent
ROUNDS = {"linear": 300, "mlp": 60, "cnn": 5, "transformer": 5}
LIMIT = 600
"""Seconds after which a contender is taken to hang."""


@dataclass(frozen=True)
class Contender:
    """One way to do a round in this environment; the engine is made where it runs. No engine: the loop."""

    engine: Callable[[], Any] | None
    threads: int = 2
    processes: int = 1
    kinds: tuple[str, ...] = tuple(KINDS)

    def command(self, name: str, kind: str, rounds: int) -> list[str]:
        options = ["--kind", kind, "--rounds", str(rounds), "--threads", str(self.threads)]
        return [sys.executable, str(HERE / "rounds.py"), "--run", name, *options]


@dataclass(frozen=True)
class Peer:
    """One way to do a round with another framework, in that framework's own environment, if it needs one."""

    script: str
    environment: str | None
    kinds: tuple[str, ...] = tuple(KINDS)
    fewer: int = 1
    """By how much to divide the number of rounds, for those that take seconds each."""
    threads: int = 2

    def command(self, name: str, kind: str, rounds: int) -> list[str]:
        python = sys.executable
        if self.environment is not None:
            python = str(HERE.parent / ".peers" / self.environment / "bin" / "python")
        return [python, str(HERE / "peers" / self.script), kind, str(max(3, rounds // self.fewer))]


RAW, AUTO, ONE, TWO = "raw loop, 2 threads", "auto", "auto, 1 thread", "auto, 2 processes of 1 thread"
SINGLE, CHILDREN = "Sequential(), 1 thread", "Isolated(processes=2), 1 thread each"
OURS = {
    RAW: Contender(None),
    "raw loop, 1 thread": Contender(None, threads=1),
    AUTO: Contender(lambda: "auto"),
    "Sequential()": Contender(lambda: engines.Sequential()),
    "Sequential(channels_last=True)": Contender(lambda: engines.Sequential(channels_last=True), kinds=("cnn",)),
    "Sequential(compile=True)": Contender(lambda: engines.Sequential(compile=True)),
    "Vectorized()": Contender(lambda: engines.Vectorized()),
    "Vectorized(compile=True)": Contender(lambda: engines.Vectorized(compile=True)),
    ONE: Contender(lambda: "auto", threads=1, kinds=("mlp", "cnn")),
    TWO: Contender(lambda: "auto", threads=1, processes=2, kinds=("mlp", "cnn")),
    SINGLE: Contender(lambda: engines.Sequential(), threads=1, kinds=("mlp", "cnn")),
    CHILDREN: Contender(lambda: engines.Isolated(processes=2), threads=1, kinds=("mlp", "cnn")),
}
PEERS = {
    "pfl-research": Peer("apple_pfl.py", "pfl"),
    "FedJAX": Peer("google_fedjax.py", "fedjax", kinds=("linear", "mlp")),
    "Flower simulation": Peer("flower.py", "flower", fewer=10),
    "a Trainer per worker": Peer("trainer_per_worker.py", None, fewer=10),
}


# ---- one contender, in this process ---------------------------------------------------------------------------------


def loop(kind: str, rounds: int) -> None:
    """FedAvg by hand."""
    stopwatch = Stopwatch()
    net, cohort_size = network(kind), KINDS[kind].cohort
    parameters = list(net.parameters())
    for worker in range(POPULATION):
        points(kind, worker)
    for _ in range(WARMUP + rounds):
        start = [p.detach().clone() for p in parameters]
        mean = [torch.zeros_like(p) for p in start]
        optimizer = torch.optim.SGD(parameters, lr=LR)
        for worker in torch.randperm(POPULATION)[:cohort_size].tolist():
            with torch.no_grad():
                torch._foreach_copy_(parameters, start)
            order = torch.randperm(POINTS)
            x, y = (rows[order].split(BATCH) for rows in points(kind, worker))
            for inputs, labels in zip(x, y, strict=True):
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(inputs), labels).backward()
                optimizer.step()
            with torch.no_grad():
                torch._foreach_add_(mean, parameters, alpha=1 / cohort_size)
        with torch.no_grad():
            torch._foreach_copy_(parameters, mean)
        stopwatch.round_ended()
    stopwatch.stop()


class Timer(pl.Callback):
    """Times the rounds of a fit, up to the end of training; the first process alone prints."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self.stopwatch = stopwatch

    def on_train_batch_end(self, *_: Any) -> None:
        self.stopwatch.round_ended()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.stopwatch.stop()


def fit(kind: str, rounds: int, engine: Any, processes: int) -> None:
    """FedAvg by lightning_fed."""
    timer = Timer(Stopwatch())
    data = FederatedDataModule(
        {f"worker_{i:03}": WorkerData(kind, i) for i in range(POPULATION)},
        cohort_size=KINDS[kind].cohort,
        rounds_per_epoch=50,
    )
    for name in data.names:  # a worker is built once, not in every round; the loop has its data beforehand as well
        data.pool[name].batches  # noqa: B018
    with tempfile.TemporaryDirectory() as logs:
        pl.Trainer(
            max_steps=WARMUP + rounds,
            accelerator="cpu",
            devices=processes,
            strategy="ddp" if processes > 1 else "auto",
            log_every_n_steps=50,
            default_root_dir=logs,
            callbacks=[timer],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        ).fit(FederatedModule(Classifier(kind), engine=engine), data)


def run(contender: Contender, kind: str, rounds: int, threads: int) -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(threads)
    if contender.engine is None:
        loop(kind, rounds)
    else:
        fit(kind, rounds, contender.engine(), contender.processes)


# ---- all contenders, in turn ----------------------------------------------------------------------------------------


def measure(command: list[str], threads: int) -> dict[str, float] | str:
    """Run a contender in a process of its own: what its stopwatch printed, or what went wrong."""
    path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    if not Path(command[0]).exists():
        return "no environment; `make bench-peers` makes it"
    try:
        process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return f"not done after {LIMIT} s"
    figures = [line for line in process.stdout.splitlines() if line.startswith('{"ms"')]
    if process.returncode == 0 and figures:
        return json.loads(figures[-1])
    errors = re.findall(r"^[\w.]*(?:Error|Exception)\b.*", process.stderr, re.MULTILINE)
    return (errors or process.stderr.split("\n")[-2:] or [""])[-1] or f"exit status {process.returncode}"


def compete(kind: str, rounds: int, repeats: int, contenders: dict[str, Contender | Peer]) -> None:
    """Run the contenders in turn and print their table."""
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    failures: dict[str, str] = {}
    for turn in range(repeats):
        for name, contender in contenders.items():
            if name in failures:
                continue
            say(f"{kind}, turn {turn + 1} of {repeats}: {name}")
            result = measure(contender.command(name, kind, rounds), contender.threads)
            if isinstance(result, str):
                failures[name] = result
            else:
                turns[name].append(result)
    say("")

    def ratio(slower: str, faster: str) -> float:
        return median(a["ms"] / b["ms"] for a, b in zip(turns[slower], turns[faster], strict=True))

    print(f"\n## {kind}: cohort {KINDS[kind].cohort}, {rounds} rounds, medians of {repeats} turns\n")
    print("| contender | ms a round | least–most | ratio to the loop | warm-up s |\n|---|---|---|---|---|")
    for name in contenders:
        if name in failures:
            print(f"| {name} | {failures[name]} | | | |")
            continue
        ms, warmup = ([turn[key] for turn in turns[name]] for key in ("ms", "warmup_s"))
        faster = "" if RAW in failures else f"{ratio(RAW, name):.2f}"
        print(f"| {name} | {median(ms):.1f} | {min(ms):.1f}–{max(ms):.1f} | {faster} | {median(warmup):.1f} |")
    done = [name for name in contenders if name not in failures]
    if ONE in done and TWO in done:
        print(f"\nTwo processes are {ratio(ONE, TWO):.2f} times as fast as one, a thread each.")
    if SINGLE in done and CHILDREN in done:
        print(f"\nTwo isolated children are {ratio(SINGLE, CHILDREN):.2f} times as fast as one process, a thread each.")
    peers = [name for name in done if name in PEERS]
    own = [name for name in done if name in OURS and OURS[name].engine and name not in (ONE, TWO, SINGLE, CHILDREN)]
    if peers and own:
        best = min(own, key=lambda name: median(turn["ms"] for turn in turns[name]))
        chosen = [AUTO, best] if AUTO in own and best != AUTO else [best]
        print("\n| times as fast as | " + " | ".join(chosen) + " |\n|---" + "|---" * len(chosen) + "|")
        for peer in peers:
            print(f"| {peer} | " + " | ".join(f"{ratio(peer, name):.1f}" for name in chosen) + " |")


def say(progress: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{progress}", end="", file=sys.stderr, flush=True)


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else None
    processor = named.group(1) if named else platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, pytorch-lightning {pl.__version__}"
    return f"{os.cpu_count()} cores of {processor}, {platform.system()}; {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rounds", type=int, help=f"by default {ROUNDS}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[""], metavar="SUBSTRING", help="besides the loop")
    parser.add_argument("--peers", action="store_true", help="other frameworks as well")
    parser.add_argument("--run", choices=OURS, metavar="NAME", help="one contender, in this process")
    parser.add_argument("--threads", type=int, default=2, help="with --run")
    options = parser.parse_args()
    if options.run is not None:
        kind = options.kind[0]
        run(OURS[options.run], kind, options.rounds or ROUNDS[kind], options.threads)
        return
    print(machine())
    everyone = {**OURS, **PEERS} if options.peers else OURS
    for kind in options.kind:
        wanted = {
            name: contender
            for name, contender in everyone.items()
            if kind in contender.kinds and (name == RAW or any(part in name for part in options.only))
        }
        compete(kind, options.rounds or ROUNDS[kind], options.repeats, wanted)


if __name__ == "__main__":
    main()
