"""Bulyan: El Mhamdi et al., *The Hidden Vulnerability of Distributed Learning in Byzantium*, 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.aggregation.krum import scores, squared_distances
from lightning_fed.aggregation.median import median
from lightning_fed.aggregation.robust import Combine, RobustAggregator, require
from lightning_fed.core.arguments import settle, whole


@final
@dataclass(frozen=True)
class Bulyan(RobustAggregator):
    """Selects n - 2f updates by Krum, one at a time, and averages the n - 4f values nearest the median (section 4).

    The second step treats every coordinate by itself, so a selected update with one bad coordinate does no harm.

    Args:
        attackers: The largest number of attackers, f.

    Raises:
        TypeError: If ``attackers`` is not a number.
        ValueError: If ``attackers`` is negative, or not an integer.
    """

    attackers: int

    def __post_init__(self) -> None:
        settle(self, attackers=whole("attackers", self.attackers, least=0))

    def check(self, cohort_size: int) -> None:
        require(cohort_size >= 4 * self.attackers + 3, self, cohort_size, "n >= 4 attackers + 3")

    def combination(self, delta: Tensor) -> Combine:
        chosen = self._chosen(squared_distances(delta))
        kept = len(chosen) - 2 * self.attackers

        def combine(rows: Tensor) -> Tensor:
            candidates = rows[chosen]
            nearest = (candidates - median(candidates)).abs().topk(kept, dim=0, largest=False).indices
            return candidates.gather(0, nearest).mean(dim=0)

        return combine

    def _chosen(self, distances: Tensor) -> list[int]:
        left = list(range(len(distances)))
        chosen: list[int] = []
        while len(chosen) < len(distances) - 2 * self.attackers:
            index = torch.tensor(left, device=distances.device)
            among = distances[index][:, index]
            best = int(scores(among, self.attackers).argmin()) if len(left) > 1 else 0
            chosen.append(left.pop(best))
        return chosen
