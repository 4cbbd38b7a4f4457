"""The population: every worker by name, built when first needed, and no more of them kept than asked for."""

from lightning_fed.population.base import EvaluationKind, Names, Population
from lightning_fed.population.batches import Batches, batches_of
from lightning_fed.population.workers import Worker, WorkerPool, has_loader

__all__ = ["Batches", "EvaluationKind", "Names", "Population", "Worker", "WorkerPool", "batches_of", "has_loader"]
