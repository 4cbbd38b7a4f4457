"""The same task as a Lightning user writes it, and the run at the server."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from deployed.task import BATCH, LR, loss, network, rows


class Module(pl.LightningModule):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.net = network(kind)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return loss(self.kind, self.net, batch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR[self.kind])


class Rows(pl.LightningDataModule):
    def __init__(self, kind: str, site: str) -> None:
        super().__init__()
        self.data = TensorDataset(*rows(kind, site))

    def train_dataloader(self) -> Any:
        return DataLoader(self.data, batch_size=BATCH)


def datamodule(kind: str, site: str) -> Rows:
    return Rows(kind, site)
