"""SCAFFOLD: Karimireddy et al., *SCAFFOLD: Stochastic Controlled Averaging for Federated Learning*, 2020, algorithm 1.

A worker's gradients pull towards its own optimum. Each worker i stores a control variate c_i, an estimate of its
gradient, and the server stores their mean c. Local steps use ``gradient − c_i + c``, which removes the drift. Then c_i
becomes the mean gradient over the local steps. For SGD at a constant learning rate η this equals option II of the
paper, ``c_i − c + (x − y_i)/(Kη)``; the mean gradient is defined for every local optimizer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import ClassVar, final

import torch

from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.core.tree import Tensors
from lightning_fed.state import OwnTables
from lightning_fed.wire import Aggregate, Job, Penalty, Updates

_CONTROL = "control"


@final
class Scaffold(Algorithm):
    """FedAvg with control variates, which remove the drift from local steps. Stores a vector for each worker.

    Workers count equally, as in the paper. For a server learning rate other than 1, pass a server optimizer.
    """

    tables: ClassVar[tuple[str, ...]] = (_CONTROL,)
    extra: ClassVar[tuple[str, ...]] = (_CONTROL,)

    def assign(self, job: Job, server: Tensors) -> Job:
        return replace(job, sent={_CONTROL: server.get(_CONTROL, torch.zeros_like(job.model.vector))})

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        c = job.sent[_CONTROL]
        before = dict(zip(workers, own.rows(_CONTROL, workers, torch.zeros_like(c)), strict=True))
        corrected = replace(
            job, penalty=Penalty(linear={worker: c - c_i for worker, c_i in before.items()}), wants_gradient=True
        )
        for result in train(corrected, workers):
            if isinstance(result, Updates):
                assert result.gradient is not None
                own.stage(_CONTROL, result.workers, result.gradient)
                c_i = torch.stack([before[worker] for worker in result.workers])
                result = replace(result, extra={_CONTROL: result.gradient - c_i})
            yield result

    def aggregator(self) -> UniformMean:
        return UniformMean()

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        server[_CONTROL] = job.sent[_CONTROL] + replies / job.population * aggregate.extra[_CONTROL]
        return aggregate
