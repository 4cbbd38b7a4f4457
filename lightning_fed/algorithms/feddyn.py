"""FedDyn: Acar et al., *Federated Learning Based on Dynamic Regularization*, 2021, algorithm 1.

Worker k minimises ``f_k(w) − ⟨g_k, w⟩ + α/2 · ‖w − w_global‖²``, where g_k is the gradient of f_k at its last local
model: afterwards ``g_k ← g_k − α(w_k − w_global)``. The server accumulates h, −α times the workers' mean movement, and
sets the model to ``mean(w_k) − h/α``. At a fixed point all local models agree, so local and global optimum are equal.

The server's step h/α does not depend on α: with α → 0 local training becomes FedAvg's, but the server still adds all
earlier movements. The state stored here is h/α.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.core.arguments import number, settle
from lightning_fed.core.tree import Tensors
from lightning_fed.state import OwnTables
from lightning_fed.wire import Aggregate, Job, Penalty, Updates

_GRADIENT, _WAY = "gradient", "way"


@final
@dataclass(frozen=True)
class FedDyn(Algorithm):
    """FedAvg with a penalty that moves each worker's optimum to the global one. Stores a vector for each worker.

    Workers count equally, as in the paper.

    Args:
        alpha: The penalty's weight α; the paper tries 0.001 to 0.1.

    Raises:
        TypeError: If ``alpha`` is not a number.
        ValueError: If ``alpha`` is not positive and finite.
    """

    alpha: float

    tables: ClassVar[tuple[str, ...]] = (_GRADIENT,)

    def __post_init__(self) -> None:
        says = " must be positive; without the penalty it is FedAvg(), and with an infinite one nothing moves"
        settle(self, alpha=number("alpha", self.alpha, above=0, says=says))

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        before = dict(zip(workers, own.rows(_GRADIENT, workers, torch.zeros_like(job.model.vector)), strict=True))
        penalty = Penalty(proximal=self.alpha, linear={worker: -g_k for worker, g_k in before.items()})
        for result in train(replace(job, penalty=penalty), workers):
            if isinstance(result, Updates):
                g_k = torch.stack([before[worker] for worker in result.workers])
                own.stage(_GRADIENT, result.workers, g_k + self.alpha * result.delta)
            yield result

    def aggregator(self) -> UniformMean:
        return UniformMean()

    def conclude(self, aggregate: Aggregate, job: Job, server: Tensors, replies: float) -> Aggregate:
        way = server.get(_WAY, torch.zeros_like(job.model.vector))
        server[_WAY] = way = way + replies / job.population * aggregate.delta
        return replace(aggregate, delta=aggregate.delta + way)
