"""GeometricMedian: Pillutla et al., *Robust Aggregation for Federated Learning* (RFA), 2022."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from lightning_fed.aggregation.median import median
from lightning_fed.aggregation.robust import Combine, Gathered, RobustAggregator
from lightning_fed.core.arguments import flag, number, one_of, settle, whole
from lightning_fed.core.double import blocks, row_norms
from lightning_fed.wire import Aggregate


@final
@dataclass(frozen=True)
class GeometricMedian(RobustAggregator):
    """The point with the smallest sum of distances to all updates, by the smoothed Weiszfeld algorithm (algorithm 2).

    With a share α < 1/2 of attackers, the distance of the point to the honest workers' mean is at most
    2(1 - α)/(1 - 2α) times their radius (section 2). The paper starts from the mean. Here the iterations start from
    the coordinate-wise median, which distant attackers do not move; few iterations are then needed, and they continue
    until the point converges. From a point that is one worker's update, the step is that of Vardi and Zhang (2000),
    unless ``nu`` is given. The authors' code corresponds to
    ``GeometricMedian(iterations=4, tolerance=0, weighted=True, start="mean", nu=1e-5)``, except that it also stops
    when the sum of distances decreases by less than a millionth.

    Args:
        iterations: The largest number of iterations.
        tolerance: Stop when the point moves by less than this share of the median distance; 0: never.
        smoothing: The smallest distance, as a share of the median distance.
        weighted: Whether distances are weighted by the workers' numbers of examples, α of algorithm 2. Attackers must
            then have less than half of all examples, and each worker reports its own number. If no worker has
            examples, all have the same weight.
        start: The start of the iterations: the coordinate-wise median, the mean (both weighted if ``weighted`` is
            set), or zero, which is the global model.
        nu: The smallest distance in the units of the parameters, ν of the paper; replaces ``smoothing``.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If a number is not positive and finite, or ``start`` is not one of the three words.
    """

    iterations: int = 100
    tolerance: float = 1e-6
    smoothing: float = 1e-6
    weighted: bool = False
    start: Literal["median", "mean", "zero"] = "median"
    nu: float | None = None

    def __post_init__(self) -> None:
        weighted = flag("weighted", self.weighted, owner=self)
        settle(
            self,
            iterations=whole("iterations", self.iterations, least=1, says=" must be positive, and whole"),
            tolerance=number("tolerance", self.tolerance, least=0),
            smoothing=number("smoothing", self.smoothing, above=0),
            weighted=weighted,
            start=one_of("start", self.start, ("median", "mean", "zero"), owner=self),
            nu=None if self.nu is None else number("nu", self.nu, above=0, owner=self),
            counts_equally=not weighted,
        )

    def combination(self, delta: Tensor) -> Combine:
        return self._combination(delta, torch.ones(len(delta), dtype=torch.float64, device=delta.device))

    def combined(self, cohort: Gathered) -> Aggregate:
        if not self.weighted or not bool((cohort.weight > 0).any()):
            return super().combined(cohort)
        return cohort.combined(self._combination(cohort.delta, cohort.weight))

    def _combination(self, delta: Tensor, alpha: Tensor) -> Combine:
        weights = self._weights(delta, alpha)
        return lambda rows: weights.to(rows.dtype) @ rows

    def _weights(self, rows: Tensor, alpha: Tensor) -> Tensor:
        """Return the weight of each row in the point; ``[n]``."""
        point = self._start(rows, alpha)
        weights = alpha
        for _ in range(self.iterations):
            distances = row_norms(rows - point)
            if self.nu is None and bool((distances == 0).any()):
                weights, here = _weights_at_a_row(rows - point, distances, alpha)
                if here == 1:
                    break
                point = weights.to(rows.dtype) @ rows
                continue
            scale = float(weighted_median(distances.unsqueeze(1), alpha, lower=True))
            weights = alpha / distances.clamp(min=self.smoothing * scale if self.nu is None else self.nu)
            weights /= weights.sum()
            before, point = point, weights.to(rows.dtype) @ rows
            if float(row_norms((point - before).unsqueeze(0))) < self.tolerance * scale:
                break
        return weights

    def _start(self, rows: Tensor, alpha: Tensor) -> Tensor:
        if self.start == "zero":
            return torch.zeros_like(rows[0])
        if self.start == "mean":
            return (alpha / alpha.sum()).to(rows.dtype) @ rows
        if not self.weighted:
            return median(rows)
        point = torch.empty_like(rows[0])
        for columns, block in blocks(rows):
            point[columns] = weighted_median(block, alpha).to(rows.dtype)
        return point


def _weights_at_a_row(offsets: Tensor, distances: Tensor, alpha: Tensor) -> tuple[Tensor, float]:
    """Return the rows' weights in the next point, and the share of the rows at the present point: 1 at the minimum.

    Algorithm 2 moves a point that is a row itself by its smallest distance, and spends its iterations there. This is
    the step of Vardi and Zhang, *The multivariate L1-median and associated data depth*, PNAS 2000, equation 2.6.

    Args:
        offsets: The rows less the point; float ``[n, m]``.
        distances: Their norms, some of them 0; float64 ``[n]``.
        alpha: The rows' weights; float64 ``[n]``.
    """
    there = torch.where(distances == 0, alpha, 0.0)
    pull = torch.where(distances == 0, 0.0, alpha / distances)
    strength = float(row_norms((pull.to(offsets.dtype) @ offsets).unsqueeze(0)))
    here = min(1.0, float(there.sum()) / strength) if strength else 1.0
    if here == 1:
        return there / there.sum(), here
    return here * there / there.sum() + (1 - here) * pull / pull.sum(), here


def weighted_median(rows: Tensor, alpha: Tensor, lower: bool = False) -> Tensor:
    """Return the weighted median of every column; ``[n, m]`` to ``[m]``.

    Args:
        rows: Float ``[n, m]``.
        alpha: The rows' weights, not negative and not all 0; float64 ``[n]``.
        lower: Whether to return the lower of two medians; else their mean.

    >>> weighted_median(torch.tensor([[1.0], [9.0], [2.0]]), torch.tensor([1.0, 3.0, 1.0]))
    tensor([9.])
    >>> weighted_median(torch.tensor([[1.0], [9.0], [2.0]]), torch.tensor([1.0, 2.0, 1.0]))
    tensor([5.5000])
    """
    ordered, order = rows.sort(dim=0)
    up_to, half = alpha[order].cumsum(dim=0), alpha.sum() / 2
    first = ordered.gather(0, (up_to < half).sum(dim=0, keepdim=True)).squeeze(0)
    if lower:
        return first
    last = (up_to <= half).sum(dim=0, keepdim=True).clamp_(max=len(rows) - 1)
    return (first + ordered.gather(0, last).squeeze(0)) / 2
