"""Robust aggregation where workers differ, without attack: Karimireddy, He and Jaggi 2022, experiment 1, table 1.

    python benchmarks/published/bucketing.py --mnist FOLDER [--only 'non-IID Median*'] [--seeds 0 1 2]

24 workers, of whom none attacks. MNIST with a long tail: class i keeps the share 0.5^i of its examples, so that class 0
is half of the data. Non-IID: sorted by label and cut into 24 parts, so that the median follows the workers with the
digits 0 and 1. Each worker takes one step of SGD, 32 digits and learning rate 0.01, in a round; there is no momentum.

What is compared are the authors' own logs of every run, in ``outputs/exp1`` of github.com/epfml/
byzantine-robust-noniid-optimizer: mean and standard deviation over their three seeds of the accuracy after 20 of their
epochs, which are 300 rounds. (Their text says 4,500 rounds for 150 epochs; a worker has 511 digits, which are 15 whole
batches, so these are 2,250.) Their accuracy is that on the first 1,920 digits of a test set with the same long tail,
ordered by label, since the last batch is dropped; the rare digits are never tested. So it is here.

Theirs differs in two points that change no figure beyond its spread: a worker goes through its digits without
repetition before it shuffles them anew, where here each round draws a batch; and the simulator sets the random
generator back after each worker, so that every step drops the same units.

Minutes of one run on one core: 5 to 9.
"""

from __future__ import annotations

import argparse
from functools import cache, partial
from typing import Any

import torch
from by_hand import Combine, Share, federated_averaging, shuffled, some, uniform_mean
from classifier import Classifier, Network, bucketing_cnn
from ours import curve_of
from study import Cell, Curve, Published, Study
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Aggregator, Krum, Median, UniformMean
from lightning_fed.datasets import IID, MNIST, PartitionedPopulation, Shards

WORKERS, BATCH, LR, EPOCH, TESTED = 24, 32, 0.01, 15, 1920


@cache
def digits(folder: str) -> tuple[Share, Share]:
    """The examples to train on and those to test on, with a long tail, ordered by label."""
    data = MNIST(folder, normalize=True)
    data.setup("fit")
    train, test = (long_tail(*data.examples(part).tensors) for part in ("train", "test"))
    return train, (test[0][:TESTED], test[1][:TESTED])


def long_tail(x: Tensor, label: Tensor) -> Share:
    """Keep the first examples of each class, of class i the share 0.5^i."""
    of_class = [(label == i).nonzero().flatten() for i in range(10)]
    kept = torch.cat([indices[: int(len(indices) * 0.5**i)] for i, indices in enumerate(of_class)])
    return x[kept], label[kept]


def ours(
    options: argparse.Namespace,
    seed: int,
    *,
    iid: bool,
    aggregator: Aggregator[Any],
    network: Network = bucketing_cnn,
    shuffle: bool = True,
) -> Curve:
    pl.seed_everything(seed, verbose=False)
    train, test = digits(options.mnist)
    partition = IID(WORKERS, seed=seed) if iid else Shards(WORKERS, 1, seed=seed)
    workers = PartitionedPopulation(TensorDataset(*train), partition, batch_size=BATCH, shuffle=shuffle)
    federated = FederatedModule(Classifier(network, LR), local_steps=1, aggregator=aggregator)
    data = FederatedDataModule(workers, val=test, batch_size=TESTED, seed=seed)
    return curve_of(federated, data, options.rounds, every=EPOCH)


def by_hand(options: argparse.Namespace, seed: int, *, iid: bool, combine: Combine) -> Curve:
    torch.manual_seed(seed)
    train, test = digits(options.mnist)
    return federated_averaging(
        bucketing_cnn(),
        deal(train, iid, seed),
        test,
        rounds=options.rounds,
        cohort=lambda round: range(WORKERS),
        batches=some(shuffled(BATCH, 1, seed), 1),
        lr=LR,
        combine=combine,
        every=EPOCH,
    )


def deal(examples: Share, iid: bool, seed: int) -> list[Share]:
    x, label = examples
    order = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed)) if iid else torch.arange(len(x))
    return [(x[part], label[part]) for part in order.tensor_split(WORKERS)]


def median(updates: Tensor, sizes: Tensor) -> Tensor:
    return (updates.median(dim=0).values - (-updates).median(dim=0).values) / 2


def krum(updates: Tensor, sizes: Tensor) -> Tensor:
    """Krum with f = 0: the one that is closest to its n - 2 nearest others."""
    squares = torch.cdist(updates.double(), updates.double()).square()
    scores = squares.sort(dim=1).values[:, 1 : len(updates) - 1].sum(dim=1)
    return updates[scores.argmin()]


LOGS = "the authors' logs"


def cell(
    iid: bool, name: str, aggregator: Aggregator[Any], combine: Combine | None, value: float, spread: float
) -> Cell:
    return Cell(
        f"{'IID' if iid else 'non-IID'} {name}",
        partial(ours, iid=iid, aggregator=aggregator),
        None if combine is None else partial(by_hand, iid=iid, combine=combine),
        (Published(value, LOGS, spread),),
    )


CELLS = [
    cell(False, "mean", UniformMean(), uniform_mean, 98.02, 0.16),
    cell(False, "Median", Median(), median, 80.33, 0.08),
    cell(False, "Krum", Krum(0), krum, 80.42, 0.05),
    cell(True, "mean", UniformMean(), uniform_mean, 97.97, 0.05),
    cell(True, "Median", Median(), median, 96.82, 0.14),
    cell(True, "Krum", Krum(0), krum, 97.03, 0.10),
]
STUDY = Study("bucketing", __doc__ or "", CELLS, rounds=20 * EPOCH, data=["mnist"])

if __name__ == "__main__":
    STUDY.main()
