"""NearestNeighborMixing (NNM): Allouah et al., *Fixing by Mixing: A Recipe for Optimal Byzantine ML*, 2023."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.aggregation.krum import squared_distances
from lightning_fed.aggregation.mixing import Mixing
from lightning_fed.aggregation.robust import Gathered, require
from lightning_fed.core.arguments import settle, whole


@final
@dataclass(frozen=True)
class NearestNeighborMixing(Mixing):
    """Replaces each update by the mean of its n - f nearest updates, itself included, then aggregates (algorithm 2).

    Workers with rare data then count in the means of others, and the aggregator's inputs differ less. With the paper's
    aggregators the error is optimal up to a constant factor.

    Args:
        aggregator: The aggregator of the means; its ``attackers`` is f, too.
        attackers: The largest number of attackers, f < n/2.

    Raises:
        TypeError: If the aggregator is not one that keeps all updates of a cohort, or ``attackers`` is not a number.
        ValueError: If ``attackers`` is negative or not an integer, or workers do not count equally in the aggregator.
    """

    attackers: int

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, attackers=whole("attackers", self.attackers, least=0))

    def check(self, cohort_size: int) -> None:
        require(cohort_size > 2 * self.attackers, self, cohort_size, "attackers < n/2")
        super().check(cohort_size)

    def shares(self, cohort: Gathered) -> Tensor:
        distances = squared_distances(cohort.delta)
        n = len(distances)
        nearest = distances.sort(dim=1, stable=True).indices[:, : n - self.attackers]
        return torch.zeros_like(distances).scatter_(1, nearest, 1 / nearest.shape[1])
