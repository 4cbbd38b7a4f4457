"""The toy of the SCAFFOLD paper: ``f1 = μx² + Gx`` and ``f2 = -Gx``, whose mean ``μ/2 · x²`` has its optimum at 0."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from helpers import Rows, fit
from torch import Tensor

from lightning_fed import CohortSampler, FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, GlobalModel, Job, Updates

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


class Spy(Aggregator[Any]):
    """Any aggregator, which keeps what it is given."""

    def __init__(self, aggregator: Aggregator[Any]) -> None:
        self.aggregator = aggregator
        self.seen: list[tuple[Job, Updates]] = []

    def fold(self, updates: Iterable[Updates], job: Job) -> Any:
        listed = list(updates)
        job = replace(
            job, model=GlobalModel(job.model.parameters, {n: b.clone() for n, b in job.model.buffers.items()})
        )  # they live on
        self.seen.extend((job, u) for u in listed)
        return self.aggregator.fold(listed, job)

    def finish(self, partial: Any, processes: Processes) -> Aggregate:
        return self.aggregator.finish(partial, processes)

    def deltas(self, cohort: int) -> dict[str, Tensor]:
        """Every worker's delta in one cohort."""
        return {
            worker: updates.delta[row]
            for job, updates in self.seen
            for row, worker in enumerate(updates.workers)
            if job.cohort == cohort
        }
