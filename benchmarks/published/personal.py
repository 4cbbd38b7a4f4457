"""Accuracy on each worker's own held-out digits: Ditto, FedRep and FedBN beside FedAvg and training alone.

    python benchmarks/published/personal.py --mnist FOLDER [--only 'two codes*'] [--seeds 0 1 2]

Three made-up populations of MNIST, each of the kind that one of the three is for; all workers take part in each of 60
rounds of one local epoch, on a network with 100 hidden units. The accuracy is that of each worker's own model on its
own held-out digits, pooled.

- *Two codes*, for Ditto (Li et al. 2021): 20 workers with 30 digits each; half of them call the digit d 9 - d. One
  model cannot be right for both halves, and 30 digits are too few to learn alone; the optimum lies between, which is
  what λ is for. The tables of the paper need Fashion-MNIST with 500 workers and 5,000 rounds, an hour and a half a run.
- *Own codes*, for FedRep (Collins et al. 2021): the same, but every worker has a code of its own, so that there is no
  common model at all, only a common representation, as in the paper's analysis of linear models. (Two classes for each
  worker, as in its experiments, separates FedRep from FedAvg by far, but here not from training alone.)
- *Gains*, for FedBN (Li et al. 2021): 5 workers with 600 digits each, standardised, then multiplied by 1/4 to 4, as
  scanners differ; BatchNorm before the ReLU. Batches of 32, one local epoch and rate 0.01 are those of the authors'
  code (``federated/fed_digits.py`` of github.com/med-air/FedBN). Their Digits-Five are five data sets, of which only
  MNIST is at hand. What is compared is what their page says, that FedBN outperforms FedAvg.

*Alone* is Ditto with λ = 0. No cell has a published number. What is to be seen is that each algorithm is above FedAvg
by far more than the spread, and Ditto and FedRep above training alone as well.

Seconds of one run on one core: 3 to 25; all of it about 8 minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import torch
from by_hand import Share, shuffled
from by_hand_algorithms import State, ditto, partly_averaged
from classifier import Classifier, Network
from ours import curve_of, parts_of
from study import Cell, Curve, Separation, Study
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedBN, FedRep
from lightning_fed.datasets import MNIST

TESTED, EVERY, LAM, HEAD_EPOCHS = 100, 20, 0.3, 5
GAINS = (1 / 4, 1 / 2, 1, 2, 4)
Workers = tuple[list[Share], list[Share]]
"""Each worker's examples, and those that it holds out."""


@cache
def digits(folder: str) -> tuple[Share, Share]:
    """The digits to train on and those to test on, standardised."""
    return parts_of(MNIST(folder, flatten=True, normalize=True))


def dealt(train: Share, test: Share, workers: int, size: int, tested: int, seed: int) -> Workers:
    """Deal out some examples evenly, and others to test on."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for (x, label), each in ((train, size), (test, tested)):
        order = torch.randperm(len(label), generator=generator)[: workers * each]
        parts.append([(x[part], label[part]) for part in order.split(each)])
    return parts[0], parts[1]


def coded(workers: Workers, codes: Sequence[Tensor]) -> Workers:
    """Let each worker call classes by a code of its own, ``[10]``."""
    train, test = ([(x, code[label]) for (x, label), code in zip(part, codes, strict=True)] for part in workers)
    return train, test


def two_codes(train: Share, test: Share, seed: int) -> Workers:
    codes = [torch.arange(10), 9 - torch.arange(10)]
    return coded(dealt(train, test, 20, 30, TESTED, seed), [codes[i % 2] for i in range(20)])


def own_codes(train: Share, test: Share, seed: int) -> Workers:
    generator = torch.Generator().manual_seed(seed)
    codes = [torch.randperm(10, generator=generator) for _ in range(20)]
    return coded(dealt(train, test, 20, 30, TESTED, seed), codes)


def gains(train: Share, test: Share, seed: int) -> Workers:
    workers = dealt(train, test, len(GAINS), 600, 5 * TESTED, seed)
    scaled = ([(gain * x, label) for gain, (x, label) in zip(GAINS, part, strict=True)] for part in workers)
    mine, held_out = scaled
    return mine, held_out


def plain() -> nn.Module:
    """The network of the two populations with codes; its head is layer 2."""
    return nn.Sequential(nn.Linear(784, 100), nn.ReLU(), nn.Linear(100, 10))


def normalizing() -> nn.Module:
    """The network of the population with gains; layer 1 is the normalisation."""
    return nn.Sequential(nn.Linear(784, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10))


@dataclass(frozen=True)
class Setting:
    """A population, and how its workers train.

    Args:
        deal: Deals out the digits.
        network: Makes the network.
        batch_size: Examples in a batch.
        lr: The learning rate.
    """

    deal: Callable[[Share, Share, int], Workers]
    network: Network
    batch_size: int
    lr: float


class Holding(pl.LightningDataModule):
    """One worker's examples, and those that it holds out."""

    def __init__(self, train: Share, held_out: Share, batch_size: int, shuffle: bool) -> None:
        super().__init__()
        self.train, self.held_out = TensorDataset(*train), TensorDataset(*held_out)
        self.batch_size, self.shuffle = batch_size, shuffle

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.train, self.batch_size, shuffle=self.shuffle)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(self.held_out, 1000)


def trained(
    folder: str, rounds: int, seed: int, *, setting: Setting, algorithm: Algorithm, shuffle: bool = True
) -> tuple[Curve, FederatedModule]:
    """Train with lightning_fed, and return the curve and what was trained."""
    pl.seed_everything(seed, verbose=False)
    mine, held_out = setting.deal(*digits(folder), seed)
    workers: dict[str, pl.LightningDataModule] = {
        f"worker_{i:02d}": Holding(*examples, setting.batch_size, shuffle)
        for i, examples in enumerate(zip(mine, held_out, strict=True))
    }
    federated = FederatedModule(Classifier(setting.network, setting.lr), algorithm)
    return curve_of(federated, FederatedDataModule(workers, seed=seed), rounds, every=min(EVERY, rounds)), federated


Loop = Callable[..., tuple[Curve, list[State]]]


def looped(folder: str, rounds: int, seed: int, *, setting: Setting, loop: Loop) -> tuple[Curve, list[State]]:
    """Train by hand, and return the curve and each worker's own network."""
    torch.manual_seed(seed)
    mine, held_out = setting.deal(*digits(folder), seed)
    return loop(
        setting.network(),
        mine,
        held_out,
        rounds=rounds,
        cohort=lambda round: range(len(mine)),
        batches=shuffled(setting.batch_size, 1, seed),
        lr=setting.lr,
        every=min(EVERY, rounds),
    )


def ours(options: argparse.Namespace, seed: int, *, setting: Setting, algorithm: Algorithm) -> Curve:
    return trained(options.mnist, options.rounds, seed, setting=setting, algorithm=algorithm)[0]


def by_hand(options: argparse.Namespace, seed: int, *, setting: Setting, loop: Loop) -> Curve:
    return looped(options.mnist, options.rounds, seed, setting=setting, loop=loop)[0]


def head_first(*arguments: object, **options: object) -> tuple[Curve, list[State]]:
    """FedRep by hand: the head is layer 2."""
    return partly_averaged(*arguments, stays=["2."], head_first=shuffled(10, HEAD_EPOCHS, seed=0), **options)


TWO, OWN = Setting(two_codes, plain, 10, 0.1), Setting(own_codes, plain, 10, 0.1)
SCALED = Setting(gains, normalizing, 32, 0.01)
FEDAVG: tuple[str, Algorithm, Loop] = ("FedAvg", FedAvg(), partly_averaged)
ALONE: tuple[str, Algorithm, Loop] = ("alone", Ditto(0.0), partial(ditto, lam=0.0))
ROWS: dict[str, tuple[Setting, list[tuple[str, Algorithm, Loop]]]] = {
    "two codes": (TWO, [FEDAVG, ALONE, ("Ditto", Ditto(LAM), partial(ditto, lam=LAM))]),
    "own codes": (OWN, [FEDAVG, ALONE, ("FedRep", FedRep(["network.2.*"], HEAD_EPOCHS), head_first)]),
    "gains": (SCALED, [FEDAVG, ("FedBN", FedBN(), partial(partly_averaged, stays=["1."]))]),
}
CELLS = [
    Cell(
        f"{kind}: {name}",
        partial(ours, setting=setting, algorithm=algorithm),
        partial(by_hand, setting=setting, loop=loop),
    )
    for kind, (setting, row) in ROWS.items()
    for name, algorithm, loop in row
]
SEPARATIONS = [
    Separation(f"{kind}: {row[-1][0]}", f"{kind}: {other}") for kind, (_, row) in ROWS.items() for other, *_ in row[:-1]
]
STUDY = Study(
    *("personal", __doc__ or "", CELLS),
    rounds=60,
    what="accuracy on workers' own held-out digits, %",
    data=["mnist"],
    separations=SEPARATIONS,
)

if __name__ == "__main__":
    STUDY.main()
