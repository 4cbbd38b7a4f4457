"""How starting, a round and memory grow with the population, and with the cohort.

    python benchmarks/scale.py [--engine auto] [--rounds 30] [--threads 1] [--examples 2] [--cached 100]

Prints a line for cohorts of 100 from 1,000, 100,000 and 1,000,000 workers, dealt out from one dataset as index arrays
("partition") or built one by one ("lazy"); then for cohorts of 1,000 and 10,000. ``start`` is from the first line about
the population to the first round, ``round`` the median, ``peak`` the most memory that the process has had, ``before``
that with imports and dataset alone. Every line is measured in a process of its own. A partition has 8 bytes for every
worker and for each of a worker's ``--examples``, and more while it is made.

The model is the linear one of ``workload.py``; examples are windows of one stream, as a million workers with numbers of
their own would not fit. ``--cached`` workers are kept set up. With the default of ``FederatedDataModule``, 1000, a
population of 1,000 would be built only once, and what its rounds gain by that has nothing to do with the size.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import statistics
import subprocess
import sys
import time
import warnings
from itertools import pairwise, product
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset
from workload import BATCH, KINDS, Classifier

from lightning_fed import FederatedDataModule, FederatedModule, Population
from lightning_fed._lightning import pl
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
    """Give the seconds to start, the median round in ms and the memory in MB."""
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
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(json.dumps(measure(options.only[0], *map(int, options.only[1:]), options)))
        return
    print("population     workers   cohort      start        round       peak    before")
    for kind, population in product(("partition", "lazy"), POPULATIONS):
        show(kind, population, COHORTS[0])
    for cohort in COHORTS[1:]:
        show("lazy", POPULATIONS[-1], cohort)


if __name__ == "__main__":
    main()
