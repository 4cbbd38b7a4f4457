"""The LightningModule of all studies, as a user would write it, and the networks of the papers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lightning_fed._lightning import pl

Network = Callable[[], nn.Module]


class Classifier(pl.LightningModule):
    """A network, cross entropy, SGD; logs ``val_acc``.

    Args:
        network: Makes the network.
        lr: The learning rate of SGD.
        momentum: Its momentum.
        weight_decay: Its weight decay.
    """

    def __init__(self, network: Network, lr: float, momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        super().__init__()
        self.network = network()
        self.settings = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        x, label = batch
        return cross_entropy(self.network(x), label)

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        x, label = batch
        rightly = self.network(x).argmax(dim=1) == label
        self.log("val_acc", rightly.double().mean(), batch_size=len(x))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), **self.settings)


def mcmahan_2nn() -> nn.Module:
    """The 2NN of McMahan et al. 2017: two hidden layers of 200 units, 199,210 parameters."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    )


def mcmahan_cnn() -> nn.Module:
    """Their CNN: 5 × 5 convolutions with 32 and 64 channels, each with pooling, and 512 units; 1,663,370 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(3136, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


def niid_bench_cnn() -> nn.Module:
    """The simple-cnn of NIID-Bench (``SimpleCNNMNIST``): 44,426 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def bucketing_cnn() -> nn.Module:
    """The network of Karimireddy, He and Jaggi 2022 (``codes/tasks/mnist.py``): 1,199,882 parameters."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.MaxPool2d(2), nn.Dropout2d(0.25)),
        *(nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )
