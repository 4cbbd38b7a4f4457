"""GeometricMedian: Pillutla et al., *Robust Aggregation for Federated Learning* (RFA), 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from lightning_fed.aggregation.median import median
from lightning_fed.aggregation.robust import Combine, RobustAggregator
from lightning_fed.core.arguments import number, settle, whole
from lightning_fed.core.double import row_norms


@final
@dataclass(frozen=True)
class GeometricMedian(RobustAggregator):
    """The point with the least sum of distances to all updates, by the smoothed Weiszfeld algorithm (algorithm 2).

    With a share α < 1/2 of attackers it lies within 2(1 - α)/(1 - 2α) times the honest workers' radius of their mean
    (section 2). The paper starts from the mean; here the median of every coordinate is the start, which attackers far
    away do not move, so that few iterations are needed.

    Args:
        iterations: The largest number of iterations.
        tolerance: Stop when the point moves by less than this share of the median distance.
        smoothing: The least distance, as a share of the median distance: ν of the paper.

    Raises:
        TypeError: If one of them is no number.
        ValueError: If one of them is not positive and finite.
    """

    iterations: int = 100
    tolerance: float = 1e-6
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        settle(
            self,
            iterations=whole("iterations", self.iterations, least=1, says=" must be positive, and whole"),
            tolerance=number("tolerance", self.tolerance, above=0),
            smoothing=number("smoothing", self.smoothing, above=0),
        )

    def combination(self, delta: Tensor) -> Combine:
        weights = self._weights(delta)
        return lambda rows: weights.to(rows.dtype) @ rows

    def _weights(self, rows: Tensor) -> Tensor:
        """The share of each row in the point; ``[n]``."""
        point = median(rows)
        weights = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64, device=rows.device)
        for _ in range(self.iterations):
            distances = row_norms(rows - point)
            scale = float(distances.median())
            if scale == 0:  # half of the rows lie in the point itself
                return torch.where(distances == 0, 1.0, 0.0).to(torch.float64) / int((distances == 0).sum())
            weights = 1 / distances.clamp(min=self.smoothing * scale)
            weights /= weights.sum()
            before, point = point, weights.to(rows.dtype) @ rows
            if float(row_norms((point - before).unsqueeze(0))) < self.tolerance * scale:
                break
        return weights
