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
    """In place of each update the mean of the n - f nearest to it, itself included, for an aggregator (algorithm 2).

    Workers whose data are rare then count in the means of others, and what the aggregator is given differs less: with
    the paper's aggregators the error is the least that any can have, up to a factor.

    Args:
        aggregator: What is given the means; its ``attackers`` are f, too.
        attackers: How many workers may be attackers, f < n/2.

    Raises:
        TypeError: If the aggregator is none that looks at all updates of a cohort, or ``attackers`` no number.
        ValueError: If ``attackers`` is negative or not whole, or workers do not count equally in the aggregator.
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
