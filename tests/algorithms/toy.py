"""The toy of the SCAFFOLD paper: ``f1 = μx² + Gx`` and ``f2 = -Gx``, whose mean ``μ/2 · x²`` has its optimum at 0."""

from __future__ import annotations

from typing import Any

import torch
from helpers import Rows, fit

from lightning_fed import CohortSampler, FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.algorithms import Algorithm

MU, G, LR = 1.0, 1.0, 0.1


class Drifting(pl.LightningModule):
    """A row of 1 asks for f1, one of 2 for f2; x is a double, so that limits can be told apart from rounding."""

    def __init__(self, x: float = 1.0, lr: float = LR, **optimizer: Any) -> None:
        super().__init__()
        self.lr = lr
        self.optimizer = optimizer
        self.x = torch.nn.Parameter(torch.tensor(x, dtype=torch.float64))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        first = (batch[0] == 1).double()
        return (first * (MU * self.x**2 + G * self.x) - (1 - first) * G * self.x).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, **self.optimizer)


def fedavg_ends_at(steps: int) -> float:
    """FedAvg's fixed point on the toy, with server lr 1 and full participation."""
    return G * (steps * LR / (1 - (1 - 2 * LR * MU) ** steps) - 1 / (2 * MU))


def run(
    algorithm: Algorithm, steps: int, rounds: int, x: float = 1.0, engine: Any = "sequential", **options: Any
) -> tuple[float, FederatedModule]:
    """Train on both workers; gives x and the FederatedModule, which says what is remembered."""
    module = Drifting(x)
    federated = FederatedModule(module, algorithm=algorithm, local_steps=steps, engine=engine)
    data = FederatedDataModule({"f1": Rows([1.0]), "f2": Rows([2.0])}, **options)
    fit(federated, data, max_steps=rounds)
    return module.x.item(), federated


class Turns(CohortSampler):
    """One worker after the other."""

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [number % population]
