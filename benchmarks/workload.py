"""The workload: 1000 workers with 50 random points each, batch 10, one local epoch, SGD 0.1, plain averaging."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl

POPULATION, POINTS, BATCH, LR = 1000, 50, 10, 0.1


@dataclass(frozen=True)
class Kind:
    """One size of the workload."""

    shape: tuple[int, ...]
    cohort: int


KINDS = {"linear": Kind((60,), 100), "mlp": Kind((1, 28, 28), 50), "cnn": Kind((3, 32, 32), 50)}


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    if kind == "linear":
        return nn.Linear(60, 10)
    if kind == "mlp":
        hidden = [nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()]
        return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(200, 10))
    return nn.Sequential(  # the CIFAR10 network of apple/pfl-research's benchmark
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)),
        *(nn.Flatten(), nn.Linear(64 * 14 * 14, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10)),
    )


@cache
def points(kind: str, worker: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 + worker)
    x = torch.randn(POINTS, *KINDS[kind].shape, generator=generator)
    return x, torch.randint(10, (POINTS,), generator=generator)


class Classifier(pl.LightningModule):
    """What a Lightning user would write."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net = network(kind)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        x, y = batch
        loss = nn.functional.cross_entropy(self.net(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=LR)


class WorkerData(pl.LightningDataModule):
    """One worker's points."""

    def __init__(self, kind: str, worker: int) -> None:
        super().__init__()
        self.kind, self.worker = kind, worker

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(*points(self.kind, self.worker)), batch_size=BATCH, shuffle=True)
