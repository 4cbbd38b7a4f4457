"""Ditto: Li et al., *Ditto: Fair and Robust Federated Learning Through Personalization*, 2021, algorithm 1.

Besides the global model, which is FedAvg's, each worker has a personal model v_k that minimises
``f_k(v) + λ/2 · ‖v − w_global‖²``. The worker is evaluated with its personal model, which never leaves it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.algorithms.personal import BUFFERS, PARAMETERS, own_model, remember
from lightning_fed.core.arguments import number, settle
from lightning_fed.core.rng import derive
from lightning_fed.state import OwnTables
from lightning_fed.wire import GlobalModel, Job, Model, Penalty, Updates


@final
@dataclass(frozen=True)
class Ditto(Algorithm):
    """FedAvg with a personal model for each worker. Trains each worker twice, and stores one model per worker.

    Args:
        lam: The weight λ that pulls personal models to the global model; 0: personal models are purely local.

    Raises:
        TypeError: If ``lam`` is not a number.
        ValueError: If ``lam`` is negative, or not finite.
    """

    lam: float

    trainings: ClassVar[int] = 2
    tables: ClassVar[tuple[str, ...]] = (PARAMETERS, BUFFERS)

    def __post_init__(self) -> None:
        settle(self, lam=number("lam", self.lam, least=0))

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        models = {
            worker: own_model(job.model, worker, own, job.model.parameters, job.model.own_buffers) for worker in workers
        }
        personal = replace(job, start=models, penalty=Penalty(proximal=self.lam), seed=derive(job.seed, "personal"))
        trained: list[Updates] = []
        for result in train(personal, workers):
            if isinstance(result, Updates):
                trained.append(result)
            else:
                yield result
        can_go_on = {worker for updates in trained for worker in updates.workers}
        came_back: set[str] = set()
        for result in train(job, [worker for worker in workers if worker in can_go_on]):
            if isinstance(result, Updates):
                came_back.update(result.workers)
            yield result
        for updates in trained:
            keep = torch.tensor([worker in came_back for worker in updates.workers])
            remember(job.model, updates.rows(keep), own, job.model.parameters, job.model.own_buffers)

    def aggregator(self) -> WeightedMean:
        return WeightedMean()

    def model_of(self, model: GlobalModel, worker: str, own: OwnTables) -> Model:
        return own_model(model, worker, own, model.parameters, model.own_buffers)
