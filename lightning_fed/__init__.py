"""Federated learning for PyTorch Lightning: your LightningModule and your Trainer, unchanged."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fed.module import FederatedModule
    from lightning_fed.population import Population
    from lightning_fed.selection import CohortSampler, RoundRobin, Uniform
    from lightning_fed.server.datamodule import FederatedDataModule
    from lightning_fed.server.evaluation.report import EvaluationReport
    from lightning_fed.server.round import FederatedLoop
    from lightning_fed.wire import RoundError, WorkerError

__version__ = "0.1.0"

__all__ = [
    "CohortSampler",
    "EvaluationReport",
    "FederatedDataModule",
    "FederatedLoop",
    "FederatedModule",
    "Population",
    "RoundError",
    "RoundRobin",
    "Uniform",
    "WorkerError",
]

_HOMES = {
    "module": ["FederatedModule"],
    "population": ["Population"],
    "selection": ["CohortSampler", "RoundRobin", "Uniform"],
    "server.datamodule": ["FederatedDataModule"],
    "server.evaluation.report": ["EvaluationReport"],
    "server.round": ["FederatedLoop"],
    "wire": ["RoundError", "WorkerError"],
}


def __getattr__(name: str) -> Any:
    """Import all of the package when the first of its names is read.

    Torch and Lightning take seconds, and the command line answers most questions without them
    (``docs/decisions/2026-11-26-a-command-line-that-answers-at-once.md``).
    """
    if name in __all__:
        for home, names in _HOMES.items():
            module = import_module(f"lightning_fed.{home}")
            globals().update({each: getattr(module, each) for each in names})
        return globals()[name]
    if not name.islower():  # no module; jsonargparse looks for each class of an option here
        raise AttributeError(f"module 'lightning_fed' has no attribute {name!r}")
    try:
        return import_module(f"lightning_fed.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"lightning_fed.{name}":
            raise
        raise AttributeError(f"module 'lightning_fed' has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
