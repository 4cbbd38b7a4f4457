"""Attackers among the workers, and what they do to the mean and to aggregators that are made to withstand them.

    python examples/attackers.py

Handwritten digits, dealt out evenly to 50 workers, of whom 10 lie about what they learned. Prints the accuracy on
held-out digits for every attack and aggregator. Needs scikit-learn: pip install "lightning_fed[examples]".

- sign flip: each sends ten times the opposite of what it learned.
- scaled: each sends a thousand times what it learned.
- colluding: all send one and the same large vector, 10 in every coordinate (the same-value attack of Li et al. 2019,
  "RSA: Byzantine-Robust Stochastic Aggregation Methods").
- inner product: all send the same, ten times the opposite of what the honest learned on average (Xie et al. 2019, "Fall
  of Empires: Breaking Byzantine-Tolerant SGD by Inner Product Manipulation").

Under the first three every aggregator but the mean stays within 3 points of its own clean run. The last one shows a
limit. Rules that go by ranks or distances (Median, TrimmedMean, GeometricMedian) stay within the range of the honest
workers, but the attackers all stand on the side that hurts most; once what is learned in a round is small against the
differences between workers, that side wins, and they lose up to 6 points. Rules that choose updates (MultiKrum, Bulyan)
lose less than one. Krum takes over the update of one worker, learned from 29 digits, and pays for that with or without
attackers.

The attacks are those of lightning_fed.testing.attacks, which has more: docs/algorithms.md.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import warnings
from typing import Any

import pytorch_lightning as pl

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed.aggregation import Bulyan, GeometricMedian, Krum, Median, MultiKrum, TrimmedMean, WeightedMean
from lightning_fed.datasets import IID, DigitsDataModule, PartitionedPopulation
from lightning_fed.models import MLPClassifier
from lightning_fed.testing.attacks import IPM, Attack, Attacked, SameValue, Scaled, SignFlip

WORKERS, ATTACKERS = 50, 10
AGGREGATORS: list[Any] = [
    *(WeightedMean(), Median(), TrimmedMean(ATTACKERS), Krum(ATTACKERS), MultiKrum(ATTACKERS), Bulyan(ATTACKERS)),
    GeometricMedian(),
]
ATTACKS: dict[str, Attack | None] = {
    "none": None,
    "sign flip": SignFlip(scale=10),
    "scaled": Scaled(factor=1000),
    "colluding": SameValue(value=10),
    "inner product": IPM(epsilon=10),
}


def accuracy(aggregator: Any, attack: Attack | None, rounds: int) -> float:
    pl.seed_everything(0, verbose=False)
    workers = PartitionedPopulation(DigitsDataModule(), IID(workers=WORKERS, seed=0), batch_size=5)
    if attack is not None:
        aggregator = Attacked(aggregator, attack, attackers=list(workers)[:ATTACKERS])
    data = FederatedDataModule(workers, val=DigitsDataModule(), seed=0)
    quiet: Any = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    options: Any = {"max_steps": rounds, "max_epochs": -1, "limit_val_batches": 0, "accelerator": "cpu", "devices": 1}
    model = MLPClassifier(in_features=64, hidden=(64,), classes=10, lr=0.3)
    federated = FederatedModule(model, aggregator=aggregator)
    with contextlib.suppress(WorkerError):  # numbers have grown beyond bounds; the model is as it was before that round
        pl.Trainer(**options, **quiet).fit(federated, data)
    (result,) = pl.Trainer(**options, **quiet).test(federated, data, verbose=False)
    return 100 * result["test_acc"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--aggregators", nargs="+", default=[type(aggregator).__name__ for aggregator in AGGREGATORS])
    parser.add_argument("--attacks", nargs="+", choices=ATTACKS, default=list(ATTACKS))
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="pytorch_lightning")
    print(f"accuracy in % after {options.rounds} rounds, {ATTACKERS} of {WORKERS} workers attacking\n")
    print(f"{'aggregator':18}" + "".join(f"{kind:>15}" for kind in options.attacks))
    for aggregator in AGGREGATORS:
        name = type(aggregator).__name__
        if name not in options.aggregators:
            continue
        figures = [accuracy(aggregator, ATTACKS[kind], options.rounds) for kind in options.attacks]
        print(f"{name:18}" + "".join(f"{figure:15.1f}" for figure in figures), flush=True)


if __name__ == "__main__":
    main()
