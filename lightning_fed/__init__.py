"""Federated learning for PyTorch Lightning: your LightningModule and your Trainer, unchanged."""

from lightning_fed.core.errors import RoundError, WorkerError
from lightning_fed.data import FederatedDataModule
from lightning_fed.loop import FederatedLoop
from lightning_fed.module import FederatedModule
from lightning_fed.population import Population
from lightning_fed.sampling import CohortSampler, RoundRobin, Uniform

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
