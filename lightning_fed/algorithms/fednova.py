"""FedNova: Wang et al., *Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization*, 2020.

Workers that take more local steps pull the mean towards their own optimum. FedNova divides each update by its number
of effective steps, averages, and multiplies by the mean of those numbers (equation 8 with τ_eff = Σ p_i ‖a_i‖₁).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, final

from lightning_fed.aggregation import NormalizedMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.core.arguments import number, settle
from lightning_fed.state import OwnTables
from lightning_fed.wire import Job, Penalty


@final
@dataclass(frozen=True)
class FedNova(Algorithm):
    """FedAvg with every update divided by its number of effective local steps.

    Args:
        momentum: The momentum of the workers' SGD.
        mu: The weight of FedProx's proximal term in every worker's loss.
        lr: The workers' learning rate; required only with ``mu``.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.
    """

    momentum: float = 0.0
    mu: float = 0.0
    lr: float | None = None

    is_mean: ClassVar[bool] = False
    lies_in_its_mean: ClassVar[bool] = True

    def __post_init__(self) -> None:
        momentum = number("momentum", self.momentum, least=0, below=1, says=" must lie in [0, 1)")
        mu = number("mu", self.mu, least=0)
        if mu > 0 and self.lr is None:
            raise ValueError(f"lr=None: with mu={mu}, FedNova needs the workers' learning rate")
        lr = self.lr if self.lr is None else number("lr", self.lr, above=0)
        settle(self, momentum=momentum, mu=mu, lr=lr)

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        yield from train(replace(job, penalty=Penalty(proximal=self.mu)) if self.mu else job, workers)

    def aggregator(self) -> NormalizedMean:
        return NormalizedMean(self.momentum, self.mu * (self.lr or 0.0))
