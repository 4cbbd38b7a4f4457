"""The task (``task.py``) as a Lightning user would write it."""

from __future__ import annotations

from typing import Any

import torch
from task import BATCH, KINDS, LR, POINTS, POPULATION, network, points
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed._lightning import pl

__all__ = ["BATCH", "KINDS", "LR", "POINTS", "POPULATION", "Classifier", "WorkerData", "network", "points"]


class Classifier(pl.LightningModule):
    """The module that a Lightning user would write."""

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
