"""Growth of start time, round time and memory with population and cohort; and the cost of own state.

    python benchmarks/scale.py [--engine auto] [--rounds 30] [--threads 1] [--examples 2] [--cached 100]
    python benchmarks/scale.py --state [--memory 16 512] [--state-rounds 200]

Prints a line for cohorts of 100 from 1,000, 100,000 and 1,000,000 workers, dealt out from one dataset as index arrays
("partition") or built one by one ("lazy"); then for cohorts of 1,000 and 10,000. ``start`` is from the first line about
the population to the first round, ``round`` the median, ``peak`` the most memory that the process has had, ``before``
that with imports and dataset alone. Every line is measured in a process of its own. A partition has 8 bytes for every
worker and for each of a worker's ``--examples``, and more while it is made.

The model is the linear one of ``workload.py``; examples are windows of one stream, as a million workers with numbers of
their own would not fit. To build a worker draws nothing, and the populations say so (``Population.draws_nothing``), or
a round of 100 took 2 ms more. ``--cached`` workers are kept set up. With the default of ``FederatedDataModule``, 1000,
a population of 1,000 would be built only once, and what its rounds gain by that has nothing to do with the size.

``--state`` has 100,000 workers train in turn, 1,000 a round, so that after 100 rounds each has taken part once and
after 200 twice: with FedAvg, and with SCAFFOLD, which remembers a vector of the model's size for each, of which
``--memory`` MB stay in memory. It prints the median round while rows are new and after that, when each is read back and
written again; the longest; the peak of memory; and what lies on disk.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from workload import BATCH, KINDS, Classifier

from lightning_fed import FederatedDataModule, FederatedModule, Population, RoundRobin
from lightning_fed._lightning import pl
from lightning_fed.algorithms import FedAvg, Scaffold
from lightning_fed.datasets import IID, PartitionedPopulation

POPULATIONS, COHORTS = (1_000, 100_000, 1_000_000), (100, 1_000, 10_000)


def windows(n: int) -> TensorDataset:
    (width,) = KINDS["linear"].shape
    stream = torch.randn(n + width - 1)
    return TensorDataset(stream.unfold(0, width, 1), torch.zeros(1, dtype=torch.int64).expand(n))


class Share(pl.LightningDataModule):
    """One worker's rows."""

    def __init__(self, dataset: TensorDataset, first: int, examples: int) -> None:
        super().__init__()
        self.share = TensorDataset(*(tensor[first : first + examples] for tensor in dataset.tensors))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.share, batch_size=BATCH, shuffle=True)


class Lazy(Population):
    """Builds a worker when it is asked for."""

    draws_nothing = True

    def __init__(self, dataset: TensorDataset, workers: int, examples: int) -> None:
        self.dataset, self.workers, self.examples = dataset, workers, examples

    def __len__(self) -> int:
        return self.workers

    def name(self, position: int) -> str:
        return f"worker_{position}"

    def __getitem__(self, name: str) -> Share:
        return Share(self.dataset, int(name.removeprefix("worker_")) * self.examples, self.examples)

    def num_examples(self, name: str) -> int:
        return self.examples

    def has_loader(self, kind: str) -> bool:
        return False


class Clock(pl.Callback):
    """Notes when the first round begins and when each ends."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        if not self.times:
            self.times.append(time.perf_counter())

    def on_train_batch_end(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


def measure(kind: str, population: int, cohort: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the seconds to start, the median round in ms and the memory in MB."""
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    dataset = windows(population * options.examples)
    before = peak()
    began = time.perf_counter()
    workers: Population = Lazy(dataset, population, options.examples)
    if kind == "partition":
        workers = PartitionedPopulation(dataset, IID(population), batch_size=BATCH)
    data = FederatedDataModule(workers, cohort_size=cohort, cached_workers=options.cached)
    clock = Clock()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    rounds = max(options.rounds * COHORTS[0] // cohort, 5)
    trainer = pl.Trainer(max_steps=rounds, accelerator="cpu", callbacks=[clock], **quiet)
    trainer.fit(FederatedModule(Classifier("linear"), engine=options.engine), data)
    median = statistics.median([end - start for start, end in pairwise(clock.times)][2:])
    return {"start": clock.times[0] - began, "round": 1e3 * median, "peak": peak(), "before": before}


STATE_POPULATION, STATE_COHORT = 100_000, 1_000


def measure_state(kind: str, memory: int, options: argparse.Namespace) -> dict[str, float]:
    """Return the median rounds in ms, before and after all workers have taken part, and MB of memory and on disk."""
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    workers = Lazy(windows(STATE_POPULATION * options.examples), STATE_POPULATION, options.examples)
    data = FederatedDataModule(workers, cohort_size=STATE_COHORT, sampler=RoundRobin(), cached_workers=options.cached)
    module = Classifier("linear")
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    clock = Clock()
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(max_steps=options.state_rounds, accelerator="cpu", callbacks=[clock], **quiet)
    with tempfile.TemporaryDirectory() as folder:
        federated = FederatedModule(
            module,
            algorithm=Scaffold() if kind == "scaffold" else FedAvg(),
            engine=options.engine,
            state_memory_mb=memory,
            state_dir=folder,
        )
        before = peak()
        trainer.fit(federated, data)
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors")) / 2**20
    rounds = [1e3 * (end - start) for start, end in pairwise(clock.times)]
    turn = STATE_POPULATION // STATE_COHORT
    return {
        "first": statistics.median(rounds[2:turn]),
        "later": statistics.median(rounds[turn:] or [float("nan")]),
        "longest": max(rounds[2:]),
        "peak": peak(),
        "before": before,
        "disk": on_disk,
        "row": size,
    }


def show_state(kind: str, memory: int) -> None:
    command = [sys.executable, *sys.argv, "--only", kind, str(memory), "0"]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    rows = result["row"] * STATE_POPULATION / 2**20 if kind == "scaffold" else 0.0
    print(
        f"{kind:<10}{rows:>8.0f} MB{memory:>8} MB{result['first']:>9.1f} ms{result['later']:>9.1f} ms"
        f"{result['longest']:>9.1f} ms{result['peak']:>8.0f} MB{result['before']:>7.0f} MB{result['disk']:>7.0f} MB",
        flush=True,
    )


def peak() -> float:
    """The most memory that this process has had so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kB on Linux


def show(kind: str, population: int, cohort: int) -> None:
    command = [sys.executable, *sys.argv, "--only", kind, str(population), str(cohort)]
    result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
    print(
        f"{kind:<10}{population:>12,}{cohort:>9,}{result['start']:>9.2f} s{result['round']:>10.1f} ms"
        f"{result['peak']:>8.0f} MB{result['before']:>7.0f} MB",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--examples", type=int, default=2)
    parser.add_argument("--cached", type=int, default=COHORTS[0])
    parser.add_argument("--state", action="store_true", help="what remembering 100,000 workers costs")
    parser.add_argument("--memory", type=int, nargs="+", default=[16, 512])
    parser.add_argument("--state-rounds", type=int, default=200)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        kind, *numbers = options.only
        if options.state:
            print(json.dumps(measure_state(kind, int(numbers[0]), options)))
        else:
            print(json.dumps(measure(kind, *map(int, numbers), options)))
        return
    if options.state:
        print(f"{STATE_POPULATION:,} workers, {STATE_COHORT:,} a round, in turn")
        print("algorithm   of rows  in memory    1st time   2nd time    longest       peak    before  on disk")
        show_state("fedavg", options.memory[0])
        for memory in options.memory:
            show_state("scaffold", memory)
        return
    print("population     workers   cohort      start        round       peak    before")
    for kind, population in product(("partition", "lazy"), POPULATIONS):
        show(kind, population, COHORTS[0])
    for cohort in COHORTS[1:]:
        show("lazy", POPULATIONS[-1], cohort)


if __name__ == "__main__":
    main()
