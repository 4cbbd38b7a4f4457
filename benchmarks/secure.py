"""Cost of secure aggregation: all parties on one core, masks beside Flower's, and a round with and without it.

    python benchmarks/secure.py [--only parties masks rounds] [--sizes 10,9,1000000 1000,96,100000]
    python benchmarks/secure.py --only masks --flower .flower/bin/python

*parties*: the processor's time of one thread for all workers and the server together, by step, without training; one
in twenty workers drops out after it has shared its secrets. As in a simulation, where the keys of two workers agree on
a secret once; with ``--apart`` each of them computes it, as on machines of their own. *masks*: one mask made and added,
with ``--flower`` beside the code of Flower's SecAgg+ on vectors of the same lengths, in turn (``make
.flower/installed``). *rounds*: fits of the same task run in turn, one round each, in one process: plain, with
``CentralDP``, and with secure aggregation.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import rounds_in_turn
from workload import KINDS, points

from lightning_fed._lightning import pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.privacy import CentralDP
from lightning_fed.secure import SecureAggregation
from lightning_fed.secure.masks import Agreements, KeyPair, Masking
from lightning_fed.secure.messages import Form
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.server import SecureServer
from lightning_fed.secure.worker import SecureWorker

PEER = Path(__file__).parent / "peers" / "flower_masks.py"

SIZES = ("10,9,1000000", "100,32,100000", "100,99,100000", "1000,48,100000", "1000,96,100000")
"""Workers, neighbours of each, words of a vector."""
LENGTHS = (10_000, 100_000, 1_000_000, 10_000_000)
DROPOUT, THRESHOLD = 0.05, 0.7

# ---- all parties -----------------------------------------------------------------------------------------------------


class Laps:
    """The processor's time from one call to the next, by what it went into."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.process_time()

    def __call__(self, step: str) -> None:
        now = time.process_time()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._since
        self._since = now


def parties(count: int, neighbours: int, size: int, apart: bool) -> tuple[Mapping[str, float], int]:
    """Run a session of so many workers: seconds by step, and the bytes that a worker sends to its end."""
    dropped = int(DROPOUT * count)
    names = [f"worker_{i:05}" for i in range(count)]
    parameters = Parameters(THRESHOLD, least=count - dropped, most=count, neighbours=neighbours)
    job, form = bytes(32), Form(size, ("loss",))
    words, scalars = np.arange(size, dtype=np.uint32), np.array([7], np.uint64)
    agree = KeyPair.agreed if apart else Agreements()
    laps = Laps()

    server = SecureServer(parameters, os.urandom(32), job)
    workers = {name: SecureWorker(name, parameters, agree=agree) for name in names}
    invitation = server.invite()
    keys = {name: worker.advertise(invitation) for name, worker in workers.items()}
    laps("keys")
    roster = server.roster(keys, form)
    shares = {name: worker.share(roster) for name, worker in workers.items()}
    forwarded = server.forward(shares)
    laps("shares")
    for name in names[dropped:]:
        masked = workers[name].mask(forwarded[name], job, words, scalars)
        laps("masks")
        server.take(name, masked)
        laps("sum")
    survivors = server.survivors()
    replies = {name: workers[name].unmask(survivors) for name in names[dropped:]}
    laps("replies")
    total = server.unmask(replies)
    laps("unmask")

    staying = count - dropped
    if not (total.words == words * np.uint32(staying)).all() or int(total.scalars[0]) != 7 * staying:
        raise AssertionError("the sum is not that of the survivors")
    sent = sum(len(each[names[-1]]) for each in (keys, shares, replies)) + len(masked)
    return laps.seconds, sent


def print_parties(sizes: list[str], repeats: int, apart: bool) -> None:
    print(
        f"all parties on one core, {DROPOUT:.0%} drop out, least of {repeats} by their sum, seconds of the processor\n"
    )
    steps = ("keys", "shares", "masks", "sum", "replies", "unmask")
    print(f"| workers, neighbours, words | {' | '.join(steps)} | all | kB up |")
    print("|---" * (len(steps) + 3) + "|")
    for given in sizes:
        count, neighbours, size = map(int, given.split(","))
        found = [parties(count, neighbours, size, apart) for _ in range(repeats)]
        seconds, sent = min(found, key=lambda each: sum(each[0].values()))
        columns = " | ".join(f"{seconds[step]:.3f}" for step in steps)
        print(
            f"| {count}, {neighbours}, {size:,} | {columns} | {sum(seconds.values()):.2f} | {sent / 1e3:.1f} |",
            flush=True,
        )


# ---- masks -----------------------------------------------------------------------------------------------------------


def mask(size: int, repeats: int) -> float:
    """Milliseconds to make a mask and to add it, the least of some repeats."""
    masking, times = Masking(np.zeros(size, np.uint32)), []
    for repeat in range(1 + repeats):
        begun = time.process_time()
        masking.add_(repeat.to_bytes(32, "little"), 1)
        times.append(1e3 * (time.process_time() - begun))
    return min(times[1:])


def print_masks(flower: str | None, turns: int, repeats: int) -> None:
    print(f"one mask made and added, medians of {turns} turns, one thread\n")
    print("| words | ms | GB/s | Flower's, ms | times as fast |\n|---|---|---|---|---|")
    for size in LENGTHS:
        own, theirs = [], []
        for _ in range(turns):
            own.append(mask(size, repeats))
            if flower is not None:
                command = [flower, str(PEER), str(size), str(repeats)]
                answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                theirs.append(float(json.loads(answer.stdout)))
        ms = statistics.median(own)
        beside = "| |"
        if theirs:
            ratios = [b / a for a, b in zip(own, theirs, strict=True)]
            beside = (
                f"{statistics.median(theirs):.2f} | {statistics.median(ratios):.0f} "
                f"({min(ratios):.0f} to {max(ratios):.0f}) |"
            )
        print(f"| {size:,} | {ms:.3f} | {4e-6 * size / ms:.1f} | {beside}", flush=True)


# ---- a round ---------------------------------------------------------------------------------------------------------

RUNS: dict[str, dict[str, Any]] = {
    "plain": {"aggregator": UniformMean()},
    "CentralDP": {"privacy": CentralDP(clip=1.0, noise_multiplier=1.0, accountant="rdp")},
    "without keys": {"aggregator": UniformMean(), "secure_aggregation": SecureAggregation(clip=10.0)},
    "protocol=True": {"aggregator": UniformMean(), "secure_aggregation": SecureAggregation(clip=10.0, protocol=True)},
}

ROUNDS_APART = 4
"""After how many rounds a worker takes part again: four fits build all their workers before they begin."""


def print_rounds(kind: str, rounds: int, engine: str, threads: int) -> None:
    for worker in range(ROUNDS_APART * KINDS[kind].cohort):
        points(kind, worker)
    torch.set_num_threads(threads)
    runs = {name: {"engine": engine, **options} for name, options in RUNS.items()}
    seconds = rounds_in_turn(kind, ROUNDS_APART * KINDS[kind].cohort, rounds, runs)
    print(
        f"{kind}, cohort {KINDS[kind].cohort}, engine {engine}, {threads} threads, medians of {rounds - 2} rounds, and"
        " of what was more, round by round\n"
    )
    print("| | ms a round | more than plain, ms | % | more than CentralDP, ms | % |\n|---|---|---|---|---|---|")
    for name in RUNS:
        own = seconds[name][2:]
        columns = []
        for other in ("plain", "CentralDP"):
            pairs = list(zip(own, seconds[other][2:], strict=True))
            more = 1e3 * statistics.median(a - b for a, b in pairs)
            columns.append(f"{more:+.1f} | {100 * statistics.median(a / b - 1 for a, b in pairs):+.1f}")
        print(f"| {name} | {1e3 * statistics.median(own):.1f} | {' | '.join(columns)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("parties", "masks", "rounds"))
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="of parties: workers,neighbours,words")
    parser.add_argument("--apart", action="store_true", help="parties with nothing in common: keys agree at both ends")
    parser.add_argument("--repeats", type=int, default=1, help="of parties; the least is printed")
    parser.add_argument("--flower", help="a Python that has flwr")
    parser.add_argument("--turns", type=int, default=3, help="of masks")
    parser.add_argument("--kind", choices=KINDS, default="mlp")
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    only = options.only or ("parties", "masks", "rounds")
    if "parties" in only:
        print_parties(options.sizes, options.repeats, options.apart)
    if "masks" in only:
        print_masks(options.flower, options.turns, repeats=10)
    if "rounds" in only:
        print_rounds(options.kind, options.rounds, options.engine, options.threads)


if __name__ == "__main__":
    main()
