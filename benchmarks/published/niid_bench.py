"""Accuracy on Fashion-MNIST by partition: NIID-Bench (Li et al. 2022), table 3.

    python benchmarks/published/niid_bench.py --fashion-mnist FOLDER [--only '#C=2*'] [--seeds 0 1 2]

10 workers, all of them in each of 50 rounds, 10 local epochs in batches of 64 by SGD with learning rate 0.01, momentum
0.9 and weight decay 1e-5; the network ``simple-cnn``; pixels in [0, 1]; weights by numbers of examples. IID; Dir(0.5):
each class is cut by Dirichlet proportions, and a worker that has its share gets no more of the next class; #C=k:
each worker has k classes. So it stands in ``run.sh``, ``experiments.py`` and ``utils.py`` of
github.com/Xtra-Computing/NIID-Bench.

Compared are the numbers of Flower's reproduction, ``baselines/niid_bench/README.md`` of github.com/adap/flower, of the
same settings: the best of 50 rounds over three seeds, as here. Those of the paper's own table are from memory. What
neither says is μ of FedProx for each cell, of {0.001, 0.01, 0.1, 1}; it is 0.01 here.

SCAFFOLD's column is left out, since it is another algorithm there: the authors' code applies ``lr (c - c_i)`` outside
of the momentum's buffer and takes c_i from ``(x - y) / (K lr)``, which under momentum 0.9 is ten times a gradient. Here
``c - c_i`` is added to the gradient, as in Karimireddy et al. 2020, and c_i is a mean of gradients. Without momentum
the two are the same.

Minutes of one run on one core: 50. A run by hand of the same cell takes as long or longer; it is left out unless
``--ways`` asks for it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import cache, partial

import torch
from by_hand import Combine, Share, federated_averaging, shuffled, weighted_mean
from classifier import Classifier, Network, niid_bench_cnn
from ours import curve_of, parts_of
from study import Cell, Curve, Published, Study, best
from torch import Tensor
from torch.utils.data import TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm, FedAvg, FedNova, FedProx
from lightning_fed.datasets import IID, Dirichlet, FashionMNIST, LabelsPerWorker, PartitionedPopulation, Partitioner
from lightning_fed.engines import Sequential

WORKERS, EPOCHS, BATCH, LR, MOMENTUM, DECAY, MU = 10, 10, 64, 0.01, 0.9, 1e-5, 0.01


@cache
def pictures(folder: str) -> tuple[Share, Share]:
    """The pictures to train on and those to test on."""
    return parts_of(FashionMNIST(folder))


def workers_of(
    train: Share, partitioner: Callable[[int], Partitioner], seed: int, shuffle: bool = True
) -> PartitionedPopulation:
    return PartitionedPopulation(TensorDataset(*train), partitioner(seed), batch_size=BATCH, shuffle=shuffle)


def ours(
    options: argparse.Namespace,
    seed: int,
    *,
    partitioner: Callable[[int], Partitioner],
    algorithm: Algorithm,
    network: Network = niid_bench_cnn,
    shuffle: bool = True,
) -> Curve:
    pl.seed_everything(seed, verbose=False)
    train, test = pictures(options.fashion_mnist)
    module = Classifier(network, LR, MOMENTUM, DECAY)
    federated = FederatedModule(module, algorithm, engine=Sequential(channels_last=True), local_epochs=EPOCHS)
    workers = workers_of(train, partitioner, seed, shuffle)
    return curve_of(federated, FederatedDataModule(workers, val=test, batch_size=1000, seed=seed), options.rounds)


def by_hand(
    options: argparse.Namespace,
    seed: int,
    *,
    partitioner: Callable[[int], Partitioner],
    mu: float = 0.0,
    combine: Combine = weighted_mean,
) -> Curve:
    torch.manual_seed(seed)
    (x, label), test = pictures(options.fashion_mnist)
    workers = workers_of((x, label), partitioner, seed)
    parts = [torch.as_tensor(workers[name].train_set.indices) for name in workers]
    return federated_averaging(
        niid_bench_cnn(),
        [(x[part], label[part]) for part in parts],
        test,
        rounds=options.rounds,
        cohort=lambda round: range(WORKERS),
        batches=shuffled(BATCH, EPOCHS, seed),
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=DECAY,
        mu=mu,
        combine=combine,
    )


def normalized_mean(updates: Tensor, sizes: Tensor) -> Tensor:
    """FedNova's mean for SGD with momentum (Wang et al. 2020)."""
    steps = EPOCHS * torch.ceil(sizes / BATCH)
    a = (steps - MOMENTUM * (1 - MOMENTUM**steps) / (1 - MOMENTUM)) / (1 - MOMENTUM)
    p = sizes / sizes.sum()
    return ((p * a).sum() * p / a).to(updates) @ updates


SPLITS: dict[str, Callable[[int], Partitioner]] = {
    "IID": lambda seed: IID(WORKERS, seed=seed),
    "Dir(0.5)": lambda seed: Dirichlet(WORKERS, 0.5, min_size=10, seed=seed, capped=True),
    "#C=2": lambda seed: LabelsPerWorker(WORKERS, 2, seed=seed),
    "#C=3": lambda seed: LabelsPerWorker(WORKERS, 3, seed=seed),
}
ALGORITHMS: dict[str, tuple[Algorithm, float, Combine]] = {
    "FedAvg": (FedAvg(), 0.0, weighted_mean),
    "FedProx": (FedProx(MU), MU, weighted_mean),
    "FedNova": (FedNova(momentum=MOMENTUM), 0.0, normalized_mean),
}
FLOWER = {
    "IID": {"FedAvg": (89.23, 0.45), "FedProx": (89.42, 0.09), "FedNova": (89.36, 0.09)},
    "Dir(0.5)": {"FedAvg": (88.09, 0.29), "FedProx": (88.15, 0.42), "FedNova": (88.22, 0.12)},
    "#C=2": {"FedAvg": (78.10, 2.51), "FedProx": (78.05, 0.99), "FedNova": (71.67, 2.34)},
    "#C=3": {"FedAvg": (82.43, 1.52), "FedProx": (82.99, 0.48), "FedNova": (81.97, 1.34)},
}
PAPER = {
    "IID": {"FedAvg": (89.6, 0.3), "FedProx": (89.5, 0.2), "FedNova": (89.4, 0.2)},
    "Dir(0.5)": {"FedAvg": (88.1, 0.6), "FedProx": (88.1, 0.9), "FedNova": (88.5, 0.5)},
    "#C=2": {"FedAvg": (77.3, 4.9), "FedProx": (74.9, 2.6), "FedNova": (70.4, 5.1)},
    "#C=3": {"FedAvg": (80.7, 1.9), "FedProx": (82.5, 1.9), "FedNova": (78.9, 3.0)},
}


def cell(split: str, name: str) -> Cell:
    algorithm, mu, combine = ALGORITHMS[name]
    flower, paper = FLOWER[split][name], PAPER[split][name]
    return Cell(
        f"{split} {name}",
        partial(ours, partitioner=SPLITS[split], algorithm=algorithm),
        partial(by_hand, partitioner=SPLITS[split], mu=mu, combine=combine),
        (Published(flower[0], "Flower's", flower[1]), Published(paper[0], "the paper's", paper[1], seen=False)),
        best,
    )


CELLS = [cell(split, name) for split in SPLITS for name in ALGORITHMS]
STUDY = Study(
    *("niid_bench", __doc__ or "", CELLS, 50),
    what="best accuracy of 50 rounds, %",
    data=["fashion-mnist"],
    ways=["ours"],
)

if __name__ == "__main__":
    STUDY.main()
