"""Krum and MultiKrum: Blanchard et al., *Machine Learning with Adversaries*, 2017."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.aggregation.robust import Combine, RobustAggregator, require
from lightning_fed.core.arguments import settle, whole
from lightning_fed.core.double import blocks


@final
@dataclass(frozen=True)
class Krum(RobustAggregator):
    """Selects the update with the smallest sum of squared distances to its n - f - 2 nearest neighbours (section 4).

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
        require(cohort_size >= 2 * self.attackers + 3, self, cohort_size, "n >= 2 attackers + 3")

    def combination(self, delta: Tensor) -> Combine:
        best = scores(squared_distances(delta), self.attackers).argmin()
        return lambda rows: rows[best]


@final
@dataclass(frozen=True)
class MultiKrum(RobustAggregator):
    """The mean of the m updates with the smallest Krum scores (section 5).

    Args:
        attackers: The largest number of attackers, f.
        selected: m, at most n - f; None: n - f - 2, the largest m of the proof. A larger m may include attackers that
            lie as close to the others as honest workers do, and issues a warning.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.
    """

    attackers: int
    selected: int | None = None

    def __post_init__(self) -> None:
        selected = self.selected if self.selected is None else whole("selected", self.selected, least=1)
        settle(self, attackers=whole("attackers", self.attackers, least=0), selected=selected)

    def check(self, cohort_size: int) -> None:
        require(cohort_size >= 2 * self.attackers + 3, self, cohort_size, "n >= 2 attackers + 3")
        require((self.selected or 1) <= cohort_size - self.attackers, self, cohort_size, "selected <= n - attackers")

    def beyond_proof(self, cohort_size: int) -> str | None:
        most = cohort_size - self.attackers - 2
        if (self.selected or 1) <= most:
            return None
        return (
            f"{self} takes the mean of more updates than the n - attackers - 2 = {most} of n={cohort_size} that its "
            "proof is about, and attackers may be among them; leave selected out for that number"
        )

    def combination(self, delta: Tensor) -> Combine:
        m = self.selected or len(delta) - self.attackers - 2
        best = scores(squared_distances(delta), self.attackers).topk(m, largest=False).indices
        return lambda rows: rows[best].mean(dim=0)


def squared_distances(rows: Tensor) -> Tensor:
    """Return the squared distances between all rows; float64 ``[n, n]``.

    Differences are taken directly: the Gram matrix loses them for rows far from 0. They are squared in float64: in
    float32 the squares of large and of tiny differences overflow and underflow.
    """
    distances = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for _, block in blocks(rows):
        distances += torch.cdist(block, block, compute_mode="donot_use_mm_for_euclid_dist").square_()
    return distances


def scores(distances: Tensor, attackers: int) -> Tensor:
    """Return for every row the sum of its max(1, n - f - 2) smallest distances to other rows; ``[n]``.

    Args:
        distances: ``[n, n]``, n at least 2.
        attackers: f.
    """
    nearest = max(len(distances) - attackers - 2, 1)
    return distances.sort(dim=1).values[:, 1 : 1 + nearest].sum(dim=1)  # the first is the row's distance to itself
