"""q-FedAvg: Li et al., *Fair Resource Allocation in Federated Learning*, 2020, algorithm 2.

Minimises ``Σ p_k F_k^(q+1) / (q+1)``: the larger q, the more a worker with a high loss counts. With L = 1/η, and F_k
the loss of the *global* model on worker k's data::

    Δ_k = F_k^q · L · (w − w_k),   h_k = q · F_k^(q−1) · ‖L (w − w_k)‖² + L · F_k^q,   w ← w − Σ p_k Δ_k / Σ p_k h_k

The paper draws workers by p_k and adds up; here p_k, in proportion to the number of examples, stands in both sums, so
that q = 0 is FedAvg.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.core.arguments import number, settle
from lightning_fed.state import OwnTables
from lightning_fed.wire import Job, LocalTraining, Updates, WorkerError

_SMALLEST_LOSS = 1e-10  # as in the authors' code: a power of 0 may be infinite


@final
@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """FedAvg in which a worker counts the more, the higher its loss is. Costs a pass over the data besides training.

    Args:
        q: How much fairer than FedAvg, which is 0; the paper tries 0.001 to 15.
        lr: The workers' own learning rate η.

    Raises:
        TypeError: If one of them is no number.
        ValueError: If one of them is out of range.
    """

    q: float
    lr: float

    trainings: ClassVar[int] = 2
    is_mean: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    lies_in_its_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        says = " must be the workers' learning rate, positive and finite"
        settle(self, q=number("q", self.q, least=0), lr=number("lr", self.lr, above=0, says=says))

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        measuring = replace(job, frozen=frozenset(job.model.parameters), local=LocalTraining(epochs=1), work={})
        losses: dict[str, float] = {}
        for result in train(measuring, workers):
            if isinstance(result, WorkerError):
                yield result
                continue
            for worker, loss in zip(result.workers, result.loss.tolist(), strict=True):
                if loss >= 0:
                    losses[worker] = max(loss, _SMALLEST_LOSS)
                else:
                    yield WorkerError(worker, job.round, f"its loss is {loss:g}, but q-FedAvg needs one of at least 0")
        for result in train(job, [worker for worker in workers if worker in losses]):
            yield self._reweighted(result, losses) if isinstance(result, Updates) else result

    def _reweighted(self, updates: Updates, losses: dict[str, float]) -> Updates:
        """Let a weighted mean compute the quotient of the two sums: the weight is p_k h_k, the update Δ_k / h_k."""
        loss = torch.tensor([losses[worker] for worker in updates.workers], dtype=torch.float64)
        lipschitz = 1 / self.lr
        squares = torch.linalg.vector_norm(updates.delta, dim=1, dtype=torch.float64).cpu() ** 2 * lipschitz**2
        h = self.q * loss ** (self.q - 1) * squares + lipschitz * loss**self.q
        scale = (lipschitz * loss**self.q / h).to(updates.delta)
        return replace(updates, delta=updates.delta * scale.unsqueeze(1), weight=updates.weight * h)

    def aggregator(self) -> WeightedMean:
        return WeightedMean()
