"""A module, its data and a config for the tests of command lines."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch.utils.data import DataLoader, TensorDataset


class Data(pl.LightningDataModule):
    """Twelve rows of three numbers, and their sum."""

    def __init__(self, seed: int = 0, batch_size: int = 4) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.x = torch.randn(12, 3, generator=torch.Generator().manual_seed(seed))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(TensorDataset(self.x, self.x.sum(1, keepdim=True)), self.hparams["batch_size"])

    val_dataloader = train_dataloader
    test_dataloader = train_dataloader
    predict_dataloader = train_dataloader


class Net(pl.LightningModule):
    """Reads its hyperparameters as it is built, and later."""

    def __init__(self, dim: int = 3, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Linear(self.hparams["dim"], 1)
        torch.nn.init.zeros_(self.net.weight)
        torch.nn.init.zeros_(self.net.bias)

    def loss(self, batch: Any) -> torch.Tensor:
        x, y = batch
        return ((self.net(x) - y) ** 2).mean()

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.loss(batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", self.loss(batch))

    def predict_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.net(batch[0])  # type: ignore[no-any-return]

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), self.hparams["lr"])


class NoOptimizer(Net):
    """Leaves it to ``--optimizer``."""

    configure_optimizers = pl.LightningModule.configure_optimizers


class Injected(Net):
    """Is given what makes its optimizer."""

    def __init__(
        self,
        dim: int = 3,
        optimizer: OptimizerCallable = torch.optim.SGD,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(dim)
        self.optimizer = optimizer
        self.scheduler = scheduler

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(self.parameters())
        return optimizer if self.scheduler is None else ([optimizer], [self.scheduler(optimizer)])


HERE = Net.__module__
MODULE = {"class_path": f"{HERE}.Net", "init_args": {"lr": 0.05}}
WORKERS = {
    "a": {"class_path": f"{HERE}.Data", "init_args": {"seed": 0}},
    "b": {"class_path": f"{HERE}.Data", "init_args": {"seed": 1}},
}
TRAINER = {
    "accelerator": "cpu",
    "max_epochs": 2,
    "log_every_n_steps": 1,
    "enable_model_summary": False,
    "enable_progress_bar": False,
}


def config(**trainer: Any) -> dict[str, Any]:
    """The config of a fit of two rounds with two workers, for ``lightning-fed``."""
    whole = {
        "seed_everything": 0,
        "trainer": {**TRAINER, **trainer},
        "model": {"module": MODULE},
        "data": {"workers": WORKERS},
    }
    return copy.deepcopy(whole)


@contextmanager
def quiet_and_restored() -> Iterator[None]:
    """Say nothing of seeds and devices, and leave the environment as it was."""
    levels = {name: logging.getLogger(name).level for name in ("lightning.fabric", "pytorch_lightning")}
    environment = dict(os.environ)
    os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"  # of Lightning's use of it
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    os.environ.clear()
    os.environ.update(environment)
