"""What an algorithm does to local gradients; the numbers of each algorithm stand in tests/algorithms."""

from __future__ import annotations

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import assert_equal, fit
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.algorithms import Algorithm, Ditto, FedAvg, FedDyn, FedNova, FedProx, QFedAvg, Scaffold

pytestmark = pytest.mark.usefixtures("double")


class Embedded(pl.LightningModule):
    """A table of which each batch asks for a few rows."""

    def __init__(self, sparse: bool, optimizer: Any = torch.optim.SGD) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 2, sparse=sparse)
        nn.init.ones_(self.table.weight)
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return (self.table(batch[0]).sum(1) - batch[1]).square().mean()

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters(), lr=0.1)


class Pairs(pl.LightningDataModule):
    def __init__(self, first: int) -> None:
        super().__init__()
        rows = torch.tensor([first, first + 1, first, first + 2])
        self.rows = TensorDataset(rows, torch.arange(4.0))

    def train_dataloader(self) -> Any:
        return DataLoader(self.rows, batch_size=2)


def table(algorithm: Algorithm, **options: Any) -> torch.Tensor:
    module = Embedded(**options)
    fit(FederatedModule(module, algorithm), FederatedDataModule({"a": Pairs(0), "b": Pairs(2)}), max_epochs=2)
    return module.table.weight.detach()


@pytest.mark.parametrize(
    "algorithm",
    [FedAvg(), FedProx(0.5), Scaffold(), FedDyn(0.1), Ditto(0.1), FedNova(), QFedAvg(1.0, 0.1)],
    ids=lambda algorithm: type(algorithm).__name__,
)
def test_a_sparse_gradient_is_corrected_as_a_dense_one(algorithm: Algorithm) -> None:
    assert_equal(table(algorithm, sparse=True), table(algorithm, sparse=False))


@pytest.mark.parametrize("algorithm", [FedAvg(), FedProx(0.5), Scaffold(), FedDyn(0.1)])
def test_an_optimizer_of_sparse_gradients_gets_sparse_ones(algorithm: Algorithm) -> None:
    moved = table(algorithm, sparse=True, optimizer=torch.optim.SparseAdam)
    assert bool((moved != 1.0).all())  # somebody has seen each of the rows
