"""Cost of differential privacy in a round.

    python benchmarks/privacy.py [--kind mlp] [--rounds 60] [--threads 2] [--promise central]

Two fits of the same task run in turn, one round each, in one process: with a promise and without. Both have the same
cohorts of a fixed size, so that rounds have the same work. Prints the medians, their difference in percent, and how
long the steps of the promise take by themselves.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from typing import Any

import torch
from turns import rounds_in_turn
from workload import KINDS, POPULATION, Classifier, points

from lightning_fed._lightning import pl
from lightning_fed.core.processes import Processes
from lightning_fed.privacy import DPFTRL, CentralDP, DistributedDP, LocalDP, Noise, Privacy, PrivateRun, Setting
from lightning_fed.privacy.private_sum import PrivateSum
from lightning_fed.selection import RoundRobin
from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates

# RDP: asked for ε after every round, and takes 0.1 ms; PLD is asked where curves are drawn, and takes 0.1 s.
PROMISES: dict[str, Privacy] = {
    "central": CentralDP(clip=1.0, noise_multiplier=1.0, accountant="rdp"),
    "ftrl": DPFTRL(clip=1.0, noise_multiplier=1.0, accountant="rdp"),
    "local": LocalDP(clip=1.0, noise_multiplier=1.0, accountant="rdp"),
    "distributed": DistributedDP(clip=1.0, survivors=10, noise_multiplier=1.0, accountant="rdp"),
}


def steps(kind: str, promise: str) -> dict[str, float]:
    """Milliseconds of a promise's own steps, medians of 20."""
    privacy, cohort = PROMISES[promise], KINDS[kind].cohort
    parameters = {name: p.detach() for name, p in Classifier(kind).named_parameters()}
    job = Job(0, 0, 0, GlobalModel(parameters), LocalTraining())
    separation, dimension = POPULATION // cohort, job.model.layout.size
    run = privacy.start(Setting(POPULATION, cohort, RoundRobin, None, 0, separation=separation, dimension=dimension))
    job = privacy.job(job, run)
    stacks = []
    for first in range(0, cohort, 8):
        n = min(8, cohort - first)
        ones = torch.ones(n, dtype=torch.float64)
        rows = 0.01 * torch.randn(n, job.model.layout.size)
        stacks.append(Updates(0, tuple(f"{first + i}" for i in range(n)), rows, {}, ones, ones, ones, ones))
    times: dict[str, list[float]] = {}

    def timed(name: str, step: Any) -> Any:
        started = time.perf_counter()
        result = step()
        times.setdefault(name, []).append(1e3 * (time.perf_counter() - started))
        return result

    for _ in range(20):
        _once(privacy, run, job, stacks, timed)
    return {name: statistics.median(each) for name, each in times.items()}


def _once(privacy: Privacy, run: PrivateRun, job: Job, stacks: list[Updates], timed: Any) -> None:
    timed("one draw of noise", lambda: Noise().gaussian(job.model.layout.size, 1.0))
    sent = timed("the workers' own steps", lambda: [privacy.at_worker(stack, job) for stack in stacks])
    aggregator = privacy.aggregator(run)
    if isinstance(aggregator, PrivateSum):
        partial = timed("clipping and sum", lambda: aggregator.fold(sent, job))
        timed("noise and mean", lambda: aggregator.finish(partial, Processes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=KINDS, default="mlp")
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--promise", choices=PROMISES, default="central")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    for worker in range(POPULATION):
        points(options.kind, worker)
    runs: dict[str, dict[str, Any]] = {"without": {}, "within": {"privacy": PROMISES[options.promise]}}
    seconds = rounds_in_turn(options.kind, POPULATION, options.rounds, runs)
    without, within = (seconds[name][2:] for name in runs)
    private, open_ = 1e3 * statistics.median(within), 1e3 * statistics.median(without)
    ratios = [a / b - 1 for a, b in zip(within, without, strict=True)]
    print(
        f"{options.kind}, cohort {KINDS[options.kind].cohort}, {options.threads} threads, {options.promise}, "
        f"medians of {options.rounds - 2} rounds:\n"
        f"  without  {open_:8.1f} ms a round\n"
        f"  with     {private:8.1f} ms a round\n"
        f"  more     {private - open_:+8.1f} ms = {100 * (private / open_ - 1):+.1f} %; "
        f"round by round {100 * statistics.median(ratios):+.1f} %"
    )
    for name, milliseconds in steps(options.kind, options.promise).items():
        print(f"  {milliseconds:8.2f} ms  {name}")


if __name__ == "__main__":
    main()
