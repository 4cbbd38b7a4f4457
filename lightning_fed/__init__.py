"""Federated learning for PyTorch Lightning: your LightningModule and your Trainer, unchanged."""

from lightning_fed.cli import attach
from lightning_fed.module import FederatedModule
from lightning_fed.population import Population
from lightning_fed.selection import CohortSampler, RoundRobin, Uniform
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.round import FederatedLoop
from lightning_fed.wire import RoundError, WorkerError

__version__ = "0.1.0"

__all__ = [
    "CohortSampler",
    "FederatedDataModule",
    "FederatedLoop",
    "FederatedModule",
    "Population",
    "RoundError",
    "RoundRobin",
    "Uniform",
    "WorkerError",
]

attach()  # a LightningCLI of the user's needs to be told nothing
