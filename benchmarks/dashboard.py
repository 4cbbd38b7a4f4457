"""Cost of a dashboard: the seconds spent in its hooks, beside those of a whole run on digits.

    python benchmarks/dashboard.py [--workers 100] [--rounds 200] [--turns 5] [--own]

Handwritten digits as in ``configs/digits.yaml``, evaluated on the server's own; with ``--own`` each worker holds some
back, so that every evaluation has values of single workers: what a dashboard draws most of. TensorBoard, one thread,
processor time; a curve of every round and an evaluation every 10. Prints the medians over the turns, part by part. What
is done once in a process, such as an import of matplotlib (which torchmetrics imports anyway), is left out.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.callbacks import Dashboard
from lightning_fed.datasets import DigitsDataModule, Dirichlet, PartitionedPopulation
from lightning_fed.models import MLPClassifier

PARTS = {
    "texts": ("on_train_epoch_start",),
    "rounds": ("on_train_batch_end",),
    "evaluations": ("on_validation_end",),
    "the end": ("on_train_end",),
}


def timed(dashboard: Dashboard) -> dict[str, float]:
    """Have a dashboard note the seconds that it takes, by part."""
    seconds: dict[str, float] = defaultdict(float)

    def wrapped(part: str, hook: Callable[..., None]) -> Callable[..., None]:
        def measured(*arguments: Any) -> None:
            since = time.process_time()
            hook(*arguments)
            seconds[part] += time.process_time() - since

        return measured

    for part, hooks in PARTS.items():
        for hook in hooks:
            setattr(dashboard, hook, wrapped(part, getattr(dashboard, hook)))
    return seconds


def run(workers: int, rounds: int, own: bool, folder: str) -> dict[str, float]:
    pl.seed_everything(0, verbose=False)
    partition = Dirichlet(workers, alpha=0.3, min_size=5, seed=0)
    population = PartitionedPopulation(DigitsDataModule(), partition, batch_size=10, val_fraction=0.2 if own else 0.0)
    dashboard = Dashboard()
    seconds = timed(dashboard)
    trainer = pl.Trainer(
        max_steps=rounds,
        max_epochs=-1,
        accelerator="cpu",
        logger=pl.loggers.TensorBoardLogger(folder, default_hp_metric=False),
        log_every_n_steps=1,
        callbacks=[dashboard],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    data = FederatedDataModule(population, cohort_size=10, rounds_per_epoch=10, val=None if own else DigitsDataModule())
    since = time.process_time()
    trainer.fit(FederatedModule(MLPClassifier(64, [64], 10, lr=0.3)), data)
    return {**seconds, "run": time.process_time() - since}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--own", action="store_true", help="evaluate on the workers' own data")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger(pl.__name__).setLevel(logging.ERROR)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run(options.workers, 10, options.own, folder)  # what is done once in a process
        turns = [run(options.workers, options.rounds, options.own, folder) for _ in range(options.turns)]
    whole = median(turn["run"] for turn in turns)
    print(f"{options.workers} workers, {options.rounds} rounds, a run of {whole:.2f} s:")
    for part in PARTS:
        own = median(turn[part] for turn in turns)
        print(f"  {part:<12}{own:8.3f} s {100 * median(turn[part] / turn['run'] for turn in turns):6.2f} %")
    shares = [sum(turn[part] for part in PARTS) / turn["run"] for turn in turns]
    print(f"  {'together':<12}{'':10} {100 * median(shares):6.2f} %")


if __name__ == "__main__":
    main()
