"""The population: every worker by name, built at first use, with a bounded number of built workers."""

from lightning_fed.population.base import EvaluationKind, Names, Population
from lightning_fed.population.batches import Batches, batches_of, examples_per_pass
from lightning_fed.population.combined import batch_in, loaders_in, set_epoch, unshuffled
from lightning_fed.population.given import BATCH_SIZE, WorkerData, datamodule_of, examples_of
from lightning_fed.population.lengths import num_batches
from lightning_fed.population.loader_processes import end_pass, end_processes
from lightning_fed.population.pool import WorkerPool
from lightning_fed.population.prepared import Prepared
from lightning_fed.population.quiet_trainer import QuietTrainer
from lightning_fed.population.trainer_of_data import TrainerOfData, starts_afresh
from lightning_fed.population.workers import Worker, has_loader
from lightning_fed.population.wrapped import WrappedPopulation

__all__ = [
    "BATCH_SIZE",
    "Batches",
    "EvaluationKind",
    "Names",
    "Population",
    "Prepared",
    "QuietTrainer",
    "TrainerOfData",
    "Worker",
    "WorkerData",
    "WorkerPool",
    "WrappedPopulation",
    "batch_in",
    "batches_of",
    "datamodule_of",
    "end_pass",
    "end_processes",
    "examples_of",
    "examples_per_pass",
    "has_loader",
    "loaders_in",
    "num_batches",
    "set_epoch",
    "starts_afresh",
    "unshuffled",
]
