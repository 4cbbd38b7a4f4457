"""Robust aggregation where workers differ, without attack: Karimireddy, He and Jaggi 2022, experiment 1.

    python benchmarks/published/bucketing.py --mnist FOLDER [--only 'non-IID: Median'] [--seeds 0 1 2]

24 workers, of whom none attacks. MNIST with a long tail: class i keeps the share 0.5^i of its examples, so that class 0
is half of the data. Non-IID: sorted by label and cut into 24 parts, so that the median follows the workers with the
digits 0 and 1. Each worker takes one step of SGD, 32 digits and learning rate 0.01, in a round; there is no momentum.
GeometricMedian takes RFA's 8 steps from 0 with ν = 0.1, CenteredClipping 3 iterations with τ = 10, both in the units of
gradients, of which updates are a hundredth. Buckets are means of two updates, dealt at random.

What is compared are the authors' own logs of every run, in ``outputs/exp1`` of github.com/epfml/
byzantine-robust-noniid-optimizer: mean and standard deviation over their three seeds of the accuracy after 20 of their
epochs, which are 300 rounds. (Their text says 4,500 rounds for 150 epochs; a worker has 511 digits, which are 15 whole
batches, so these are 2,250.) Their accuracy is that on the first 1,920 digits of a test set with the same long tail,
ordered by label, since the last batch is dropped; the rare digits are never tested. So it is here.

Theirs differs in two points: a worker goes through its digits without
repetition before it shuffles them anew, where here each round draws a batch; and the simulator sets the random
generator back after each worker, so that every step drops the same units.

Their Krum, ``codes/aggregator/krum.py``, squares distances twice: ``_compute_euclidean_distance(...) ** 2`` and then
``distances[i][j] ** 2``, so that its scores are sums of fourth powers. The cells "fourth powers" are loops by hand with
such scores, to see what of the difference that is.

Minutes of one run on one core: 5 to 14.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
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
from lightning_fed.aggregation import (
    Aggregator,
    Bucketing,
    CenteredClipping,
    CohortAggregator,
    GeometricMedian,
    Krum,
    Median,
    UniformMean,
)
from lightning_fed.datasets import IID, MNIST, LongTail, PartitionedPopulation, Shards

WORKERS, BATCH, LR, EPOCH, TESTED = 24, 32, 0.01, 15, 1920


@cache
def digits(folder: str) -> tuple[Share, Share]:
    """The examples to train on and those to test on, with a long tail, ordered by label."""
    data = LongTail(MNIST(folder, normalize=True), decay=0.5)
    data.setup("fit")
    train, test = (loader.dataset[:] for loader in (data.train_dataloader(), data.test_dataloader()))
    return train, (test[0][:TESTED], test[1][:TESTED])


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


def by_hand(
    options: argparse.Namespace, seed: int, *, iid: bool, combine: Callable[[], Combine], buckets: bool
) -> Curve:
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
        combine=in_buckets(combine(), seed) if buckets else combine(),
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
    return _krum(updates, power=2)


def krum_by_fourth_powers(updates: Tensor, sizes: Tensor) -> Tensor:
    """Krum with f = 0 as the authors' code has it."""
    return _krum(updates, power=4)


def _krum(updates: Tensor, power: int) -> Tensor:
    powers = torch.cdist(updates.double(), updates.double()) ** power
    scores = powers.sort(dim=1).values[:, 1 : len(updates) - 1].sum(dim=1)
    return updates[scores.argmin()]


def rfa(updates: Tensor, sizes: Tensor) -> Tensor:
    """RFA: 8 steps of Weiszfeld's from 0, as the authors' ``codes/aggregator/rfa.py``."""
    point = torch.zeros_like(updates[0])
    for _ in range(8):
        shares = 1 / (updates - point).norm(dim=1).clamp(min=0.1 * LR)
        point = (shares / shares.sum()) @ updates
    return point


def centered_clipping() -> Combine:
    """Centered clipping, 3 iterations: ``codes/aggregator/clipping.py``."""
    center: list[Tensor] = []

    def combine(updates: Tensor, sizes: Tensor) -> Tensor:
        point = center.pop() if center else torch.zeros_like(updates[0])
        for _ in range(3):
            away = updates - point
            point = point + (away * (10 * LR / away.norm(dim=1, keepdim=True)).clamp(max=1)).mean(dim=0)
        center.append(point)
        return point

    return combine


def in_buckets(combine: Combine, seed: int) -> Combine:
    """Means of two updates each, at random."""
    generator = torch.Generator().manual_seed(seed)

    def means(updates: Tensor, sizes: Tensor) -> Tensor:
        pairs = torch.randperm(len(updates), generator=generator).view(-1, 2)
        return combine(updates[pairs].mean(dim=1), sizes)

    return means


RULES: dict[str, tuple[CohortAggregator | UniformMean, Callable[[], Combine]]] = {
    "mean": (UniformMean(), lambda: uniform_mean),
    "Median": (Median(), lambda: median),
    "Krum": (Krum(0), lambda: krum),
    "GeometricMedian": (GeometricMedian(8, tolerance=0, start="zero", nu=0.1 * LR), lambda: rfa),
    "CenteredClipping": (CenteredClipping(10 * LR, iterations=3), centered_clipping),
}
LOGS = {
    "non-IID": {
        "mean": (98.02, 0.16),
        "Median": (80.33, 0.08),
        "Krum": (80.42, 0.05),
        "GeometricMedian": (80.24, 0.08),
        "CenteredClipping": (98.12, 0.16),
    },
    "non-IID, buckets of 2": {
        "Median": (89.93, 0.86),
        "Krum": (90.78, 0.72),
        "GeometricMedian": (88.42, 1.46),
        "CenteredClipping": (98.06, 0.17),
    },
    "IID": {
        "mean": (97.97, 0.05),
        "Median": (96.82, 0.14),
        "Krum": (97.03, 0.10),
        "GeometricMedian": (97.97, 0.21),
        "CenteredClipping": (97.97, 0.05),
    },
    "IID, buckets of 2": {
        "Median": (97.67, 0.18),
        "Krum": (97.69, 0.08),
        "GeometricMedian": (98.06, 0.13),
        "CenteredClipping": (97.97, 0.05),
    },
}
"""The authors' logs after 20 epochs, by ``outputs/exp1/all/{rule}_NA_{non-IID}_s{size}_seed{seed}/stats``."""


def cell(setting: str, name: str) -> Cell:
    aggregator, combine = RULES[name]
    value, spread = LOGS[setting][name]
    iid, buckets = setting.startswith("IID"), setting.endswith("2")
    if buckets:
        assert isinstance(aggregator, CohortAggregator)
        aggregator = Bucketing(aggregator, size=2)
    return Cell(
        f"{setting}: {name}",
        partial(ours, iid=iid, aggregator=aggregator),
        partial(by_hand, iid=iid, combine=combine, buckets=buckets),
        (Published(value, "the authors' logs", spread),),
    )


def fourth_powers(setting: str) -> Cell:
    value, spread = LOGS[setting]["Krum"]
    buckets = setting.endswith("2")
    run = partial(by_hand, iid=False, combine=lambda: krum_by_fourth_powers, buckets=buckets)
    return Cell(f"{setting}: Krum, fourth powers", None, run, (Published(value, "the authors' logs", spread),))


CELLS = [cell(setting, name) for setting, rules in LOGS.items() for name in rules]
CELLS += [fourth_powers(setting) for setting in ("non-IID", "non-IID, buckets of 2")]
STUDY = Study("bucketing", __doc__ or "", CELLS, rounds=20 * EPOCH, data=["mnist"])

if __name__ == "__main__":
    STUDY.main()
