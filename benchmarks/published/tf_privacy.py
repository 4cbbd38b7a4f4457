"""Accuracy at ε on MNIST: the table of TensorFlow Privacy's tutorial of DP-SGD.

    python benchmarks/published/tf_privacy.py --mnist FOLDER [--only '*ε=1.*'] [--seeds 0 1 2]

The table stands in ``tutorials/README.md`` of github.com/tensorflow/privacy, as of commit 0776ed1;
its settings there and in ``tutorials/mnist_dpsgd_tutorial.py``. A network of 26,010 parameters, with the initial
weights that Keras draws (Glorot's uniform ones, and biases of 0); pixels in [0, 1]; plain SGD of learning rate η on the
sum of 256 gradients, each clipped to a norm of C, with noise of standard deviation zC, over 256; 234 steps are an
epoch; accuracy on the 10,000 test digits after the last. They say that it is the mean of 10 runs whose standard
deviation is "less than .3% in all cases". Of the second row the README also shows what one run printed after epochs 1
and 2.

*60,000 workers*: each holds one digit, and takes one step of learning rate 1, so that an update is a gradient. Cohorts
are Poisson samples of 256 workers in expectation, ``CentralDP(clip=C, noise_multiplier=z)``, and the server's SGD has
the learning rate η. That is DP-SGD, in which a worker is an example. *One worker* holds all digits and trains by
``RecordDP``, an epoch in a round. *By hand* is DP-SGD in PyTorch with gradients by ``vmap``, which draws its own
samples and noise.

Theirs differs in one point: batches are cut from shuffled digits, 256 in each, and accounted as if they were Poisson
samples, which ours are. The second table is of ε: theirs; the same account by hand, which confirms q, z, the number of
steps and δ; and ours for the same numbers, by RDP and by PLD. Their account converts Rényi divergences as Mironov 2017
does (proposition 3), ours as Canonne, Kamath and Steinke 2020 do, so it finds less; PLD finds less still. For the first
row ours is what these print:

    lightning-fed privacy --rounds 3510 --population 60000 --cohort-size 256 --noise-multiplier 1.3 --delta 1e-5
    lightning-fed privacy ... --accountant rdp

No curve of *user-level* privacy can be run on MNIST or Fashion-MNIST and compared. Those of McMahan et al. 2018 are of
posts on Reddit; of Andrew et al. 2021 of EMNIST by writer, CIFAR-100, Shakespeare and Stack Overflow; of Kairouz et al.
2021 of Stack Overflow (their MNIST is not federated); of pfl-research of CIFAR-10, Stack Overflow and FLAIR. Geyer,
Klein and Nabi 2017 do divide MNIST among 100 to 10,000 workers. But the bound in their code (``Helper_Functions.py`` in
github.com/SAP-samples/machine-learning-diff-private-federated-learning) is the median of the cohort's own norms, layer
by layer, which no noise covers; and it divides updates by min(1, norm / median), which makes short ones longer and
leaves long ones as they are. So no update is bounded, and their accuracies are not those of a promise that is kept.
The table here has the mechanism of all of them, with workers of one example each.

Minutes of one run on one core: 60,000 workers 1 (epoch 1), 2 (epoch 2), 11 (ε=1.19), 40 (ε=3.01), 31 (ε=7.10); one
worker 3 and 5; by hand a third of those of the workers. ``--only '*ε=1.*'`` leaves the two long rows out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from functools import cache, partial
from typing import NamedTuple

import torch
from by_hand import Share, accuracy
from classifier import Classifier, Network
from ours import curve_of, parts_of
from study import Cell, Curve, Published, Study
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters
from torch.utils.data import TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.datasets import IID, MNIST, PartitionedPopulation
from lightning_fed.privacy import Accountant, CentralDP, RecordDP, SubsampledGaussian

DIGITS, BATCH, DELTA = 60_000, 256, 1e-5
EPOCH = DIGITS // BATCH


class Row(NamedTuple):
    """A row of the table: learning rate η, noise multiplier z, clipping norm C, epochs, and what it says."""

    lr: float
    noise_multiplier: float
    clip: float
    epochs: int
    epsilon: float
    accuracy: float


ROWS = [Row(0.25, 1.3, 1.5, 15, 1.19, 95.0), Row(0.15, 1.1, 1.0, 60, 3.01, 96.6), Row(0.25, 0.7, 1.5, 45, 7.10, 97.0)]
ONE_RUN = [Row(0.15, 1.1, 1.0, 1, 1.03, 77.4), Row(0.15, 1.1, 1.0, 2, 1.11, 87.7)]


def tutorial_cnn() -> nn.Module:
    """The network of the tutorial (``cnn_model_fn``), with Keras's initial weights: 26,010 parameters."""
    network = nn.Sequential(
        *(nn.Conv2d(1, 16, 8, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2, stride=1)),
        *(nn.Conv2d(16, 32, 4, stride=2), nn.ReLU(), nn.MaxPool2d(2, stride=1)),
        *(nn.Flatten(), nn.Linear(512, 32), nn.ReLU(), nn.Linear(32, 10)),
    )
    for parameter in network.parameters():
        if parameter.ndim > 1:
            nn.init.xavier_uniform_(parameter)
        else:
            nn.init.zeros_(parameter)
    return network


@cache
def digits(folder: str) -> tuple[Share, Share]:
    """The examples to train on and those to test on."""
    return parts_of(MNIST(folder))


def steps_of(row: Row, options: argparse.Namespace) -> int:
    return min(options.rounds, row.epochs * EPOCH)


def many_workers(
    options: argparse.Namespace, seed: int, *, row: Row, network: Network = tutorial_cnn, insecure: bool = False
) -> Curve:
    pl.seed_everything(seed, verbose=False)
    train, test = digits(options.mnist)
    federated = FederatedModule(
        Classifier(network, lr=1.0),
        local_steps=1,
        server_optimizer=lambda parameters: torch.optim.SGD(parameters, row.lr),
        privacy=CentralDP(row.clip, row.noise_multiplier, delta=DELTA, insecure_deterministic_noise=insecure),
        engine="vectorized",  # engine="auto" trains convolutions one after another, which takes longer with one digit
    )
    workers = PartitionedPopulation(TensorDataset(*train), IID(len(train[1]), seed=seed), batch_size=1)
    data = FederatedDataModule(workers, cohort_size=BATCH, val=test, batch_size=1000, seed=seed)
    return curve_of(federated, data, steps_of(row, options), every=EPOCH)


def one_worker(
    options: argparse.Namespace, seed: int, *, row: Row, network: Network = tutorial_cnn, insecure: bool = False
) -> Curve:
    pl.seed_everything(seed, verbose=False)
    train, test = digits(options.mnist)
    rate = BATCH / len(train[1])
    federated = FederatedModule(
        Classifier(network, row.lr),
        local_steps=EPOCH,
        privacy=RecordDP(row.clip, rate, DELTA, row.noise_multiplier, insecure_deterministic_noise=insecure),
    )
    workers = PartitionedPopulation(TensorDataset(*train), IID(1), batch_size=BATCH)
    data = FederatedDataModule(workers, val=test, batch_size=1000, seed=seed)
    return [(epoch * EPOCH, each) for epoch, each in curve_of(federated, data, steps_of(row, options) // EPOCH)]


def by_hand(options: argparse.Namespace, seed: int, *, row: Row) -> Curve:
    torch.manual_seed(seed)
    train, test = digits(options.mnist)
    generator = torch.Generator().manual_seed(seed)
    return dp_sgd(
        tutorial_cnn(),
        train,
        test,
        row,
        BATCH,
        steps=steps_of(row, options),
        batch=lambda step: (torch.rand(len(train[1]), generator=generator) < BATCH / len(train[1])).nonzero().flatten(),
        normal=lambda step, size: torch.randn(size, generator=generator),
        every=EPOCH,
    )


def dp_sgd(
    network: nn.Module,
    examples: Share,
    test: Share,
    row: Row,
    batch_size: int,
    *,
    steps: int,
    batch: Callable[[int], Tensor],
    normal: Callable[[int, int], Tensor],
    every: int = 1,
) -> Curve:
    """Train a network by Abadi et al. 2016, algorithm 1, which changes it, and return its accuracies in %.

    Args:
        network: The network, with its initial parameters.
        examples: The examples.
        test: The test data.
        row: Learning rate, noise multiplier and clipping norm.
        batch_size: The size of a batch that is to be expected.
        steps: The number of steps.
        batch: The numbers of the examples in each step's batch.
        normal: The noise of each step, from its number and the number of parameters: of standard deviation 1.
        every: The number of steps from one evaluation to the next.
    """

    def loss(parameters: dict[str, Tensor], x: Tensor, label: Tensor) -> Tensor:
        return cross_entropy(functional_call(network, parameters, (x[None],)), label[None])

    gradients_of = vmap(grad(loss), in_dims=(None, 0, 0))
    x, label = examples
    curve: Curve = []
    for step in range(steps):
        chosen = batch(step)
        parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
        gradients = torch.cat(
            [each.flatten(1) for each in gradients_of(parameters, x[chosen], label[chosen]).values()], 1
        )
        clipped = gradients * (row.clip / gradients.norm(dim=1, keepdim=True)).clamp(max=1.0)
        noise = normal(step, gradients.shape[1]) * row.noise_multiplier * row.clip
        before = parameters_to_vector(network.parameters()).detach()
        after = before - row.lr * (clipped.sum(dim=0) + noise) / batch_size
        vector_to_parameters(after, network.parameters())
        if (step + 1) % every == 0:
            curve.append((step + 1, accuracy(network, test)))
    return curve


# ---- ε ---------------------------------------------------------------------------------------------------------------


def epsilon_by_hand(row: Row) -> float:
    """Return ε as the tutorial computes it (``compute_epsilon``), by integrals.

    Rényi divergences of the subsampled Gaussian mechanism of the tutorial's orders α (Mironov, Talwar and Zhang 2019),
    times the number of steps; and the least ε over α of divergence + log(1/δ) / (α − 1) (Mironov 2017, proposition 3).
    """
    orders = torch.tensor([1 + i / 10 for i in range(1, 100)] + list(range(12, 64)), dtype=torch.float64)[:, None]
    z, q = row.noise_multiplier, BATCH / DIGITS
    x = torch.linspace(-40.0, 120.0, 8_001, dtype=torch.float64)  # a release without a worker; its mean is 1 with it
    ratio = torch.logaddexp(torch.tensor(math.log1p(-q), dtype=torch.float64), math.log(q) + (2 * x - 1) / (2 * z**2))
    density = -(x**2) / (2 * z**2) - math.log(z * math.sqrt(2 * math.pi))
    moments = torch.logsumexp(density + orders * ratio, dim=1) + math.log(float(x[1] - x[0]))
    divergences = row.epochs * EPOCH * moments / (orders[:, 0] - 1)
    return float((divergences - math.log(DELTA) / (orders[:, 0] - 1)).min())


def epsilon_by_ours(row: Row, kind: str) -> float:
    accountant = Accountant(kind)  # type: ignore[arg-type]
    accountant.charge(SubsampledGaussian(row.noise_multiplier, BATCH / DIGITS), row.epochs * EPOCH)
    return accountant.epsilon(DELTA)


def table_of_epsilons() -> str:
    lines = [
        f"ε at δ = {DELTA:g}, q = {BATCH}/{DIGITS}",
        "",
        "| z | epochs | published | that account by hand | ours, RDP | ours, PLD |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted((*ROWS, *ONE_RUN), key=lambda row: row.epsilon):
        found = (epsilon_by_hand(row), epsilon_by_ours(row, "rdp"), epsilon_by_ours(row, "pld"))
        figures = (
            f"{row.noise_multiplier:g}",
            str(row.epochs),
            f"{row.epsilon:.2f}",
            *(f"{each:.2f}" for each in found),
        )
        lines.append("| " + " | ".join(figures) + " |")
    return "\n".join(lines)


README = "tensorflow/privacy, tutorials/README.md"


def cell(kind: str, row: Row, spread: float | None, by: Callable[..., Curve] | None) -> Cell:
    name = f"{kind}, ε={row.epsilon:.2f} η={row.lr:g} z={row.noise_multiplier:g} C={row.clip:g} E={row.epochs}"
    source = README if spread is not None else f"{README}, one run"
    run = many_workers if kind == MANY else one_worker
    published = (Published(row.accuracy, source, spread),)
    return Cell(name, partial(run, row=row), None if by is None else partial(by, row=row), published)


MANY, ONE = "60,000 workers", "one worker"
CELLS = [
    *(cell(MANY, row, None, by_hand) for row in ONE_RUN),
    *(cell(ONE, row, None, by_hand) for row in ONE_RUN),
    *(cell(MANY, row, 0.3, by_hand) for row in ROWS),
]
STUDY = Study("tf_privacy", __doc__ or "", CELLS, rounds=max(row.epochs for row in ROWS) * EPOCH, data=["mnist"])

if __name__ == "__main__":
    STUDY.main()
    print(f"\n{table_of_epsilons()}")
