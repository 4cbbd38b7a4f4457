"""Two workers with whom every round goes half of the way to the mean of their rows, and a module that is evaluated."""

from __future__ import annotations

from typing import Any

from helpers import EvaluatedRows, Scalar
from torch import Tensor

from lightning_fed import FederatedDataModule


class Evaluated(Scalar):
    """Half of the way with each step; evaluates the squared distance to each row."""

    def __init__(self, lr: float = 0.5) -> None:
        super().__init__(lr=lr)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss: Tensor = super().training_step(batch, batch_idx)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", ((self.x - batch[0]) ** 2).mean(), batch_size=len(batch[0]))

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.log("test_loss", ((self.x - batch[0]) ** 2).mean(), batch_size=len(batch[0]))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self.x + batch[0]


def after(rounds: int) -> float:
    """Where x is after so many rounds."""
    return 6 * (1 - 0.5**rounds)


def pair(rounds_per_epoch: int = 1, batch_size: int | None = None) -> FederatedDataModule:
    workers = {"a": EvaluatedRows([3.0, 5.0], batch_size), "b": EvaluatedRows([7.0, 9.0], batch_size)}
    return FederatedDataModule(workers, rounds_per_epoch=rounds_per_epoch)
