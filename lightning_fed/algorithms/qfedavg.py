"""q-FedAvg: Li et al., *Fair Resource Allocation in Federated Learning*, 2020, algorithm 2.

Minimises ``Σ p_k F_k^(q+1) / (q+1)``: the larger q, the more a worker with a high loss counts. With L = 1/η, and F_k
the loss of the *global* model on worker k's data::

    Δ_k = F_k^q · L · (w − w_k),   h_k = q · F_k^(q−1) · ‖L (w − w_k)‖² + L · F_k^q,   w ← w − Σ Δ_k / Σ h_k

Algorithm 2 draws workers by p_k, in proportion to their numbers of examples, and these are plain sums over the cohort.
The authors' code (``litian96/fair_flearn``, ``flearn/trainers/fedbase.py``) draws by p_k without replacement, or
uniformly, with plain sums in both cases. With a sampler that ignores size, p_k can instead be a factor in both sums,
and q = 0 is then FedAvg; this is the default here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch

from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.core.arguments import flag, number, settle
from lightning_fed.state import OwnTables
from lightning_fed.wire import Job, LocalTraining, Updates, WorkerError

_SMALLEST_LOSS = 1e-10  # as in the authors' code: a power of 0 may be infinite


@final
@dataclass(frozen=True)
class QFedAvg(Algorithm):
    """FedAvg in which workers with a higher loss have a larger weight. Costs one pass over the data besides training.

    Args:
        q: The degree of fairness; 0 is FedAvg. The paper tries 0.001 to 15.
        lr: The workers' learning rate η.
        weighted: Whether p_k is a factor in both sums. If False, the sums are plain: with the sampler
            :class:`~lightning_fed.selection.WeightedBySize` this is the paper's algorithm 2, with
            :class:`~lightning_fed.selection.Uniform` it is the uniform variant of the authors' code, where all workers
            have the same p_k.

    Raises:
        TypeError: If an argument is not a number, or ``weighted`` is not a bool.
        ValueError: If an argument is out of range.
    """

    q: float
    lr: float
    weighted: bool = True

    trainings: ClassVar[int] = 2
    is_mean: ClassVar[bool] = False
    weighs: ClassVar[bool] = True
    lies_in_its_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        says = " must be the workers' learning rate, positive and finite"
        q, lr = number("q", self.q, least=0), number("lr", self.lr, above=0, says=says)
        settle(self, q=q, lr=lr, weighted=flag("weighted", self.weighted))

    @property
    def counts_examples(self) -> bool:
        return self.weighted

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
        """Return updates whose weighted mean is the quotient of the sums: weight h_k or p_k h_k, delta Δ_k / h_k."""
        loss = torch.tensor([losses[worker] for worker in updates.workers], dtype=torch.float64)
        lipschitz = 1 / self.lr
        squares = torch.linalg.vector_norm(updates.delta, dim=1, dtype=torch.float64).cpu() ** 2 * lipschitz**2
        h = self.q * loss ** (self.q - 1) * squares + lipschitz * loss**self.q
        scale = (lipschitz * loss**self.q / h).to(updates.delta)
        counts = updates.weight if self.weighted else (updates.weight > 0).to(h)
        return replace(updates, delta=updates.delta * scale.unsqueeze(1), weight=counts * h)

    def aggregator(self) -> WeightedMean:
        return WeightedMean()
