"""FedProx: Li et al., *Federated Optimization in Heterogeneous Networks*, 2020.

Every worker minimises its loss plus ``μ/2 · ‖w − w_global‖²`` (equation 2). The term limits the drift between workers
whose data or numbers of local steps differ. The logged loss excludes the term.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import final

from lightning_fed.aggregation import WeightedMean
from lightning_fed.algorithms.base import Algorithm, Result, Train
from lightning_fed.core.arguments import number, settle
from lightning_fed.state import OwnTables
from lightning_fed.wire import Job, Penalty


@final
@dataclass(frozen=True)
class FedProx(Algorithm):
    """FedAvg with a proximal term in every worker's loss.

    Args:
        mu: The weight μ of the term; 0 is FedAvg. The paper tries 0.001 to 1.

    Raises:
        TypeError: If ``mu`` is not a number.
        ValueError: If ``mu`` is negative, or not finite.
    """

    mu: float

    def __post_init__(self) -> None:
        settle(self, mu=number("mu", self.mu, least=0))

    def at_worker(self, train: Train, job: Job, workers: Sequence[str], own: OwnTables) -> Iterator[Result]:
        yield from train(replace(job, penalty=Penalty(proximal=self.mu)), workers)

    def aggregator(self) -> WeightedMean:
        return WeightedMean()
