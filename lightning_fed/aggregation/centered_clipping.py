"""CenteredClipping: Karimireddy, He & Jaggi, *Learning from History for Byzantine Robust Optimization*, 2021."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

import torch
from torch import Tensor

from lightning_fed.aggregation.median import median
from lightning_fed.aggregation.robust import CohortAggregator, Gathered
from lightning_fed.core.arguments import number, settle, whole
from lightning_fed.core.double import row_norms
from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Aggregate, Job

_CENTER = "center"


@final
@dataclass(frozen=True)
class CenteredClipping(CohortAggregator):
    """``v ← v + 1/n Σ (Δᵢ − v) min(1, τ / ‖Δᵢ − v‖)``, starting from the last round's v; the first v is 0.

    No worker moves v by more than τ/n in an iteration. Use it with updates that workers smooth over rounds
    (:class:`~lightning_fed.transforms.WorkerMomentum`): the paper shows that otherwise deviations that are small in
    each round add up. Extra vectors of an algorithm are weighted by the same factors, around 0. Buffers are combined
    by the median, integer ones too.

    Args:
        radius: τ, in the units of the parameters. Papers state τ in the units of gradients; after one local step of
            SGD an update is the learning rate times a gradient, and τ is that rate times the paper's τ.
        iterations: The number of iterations in a round.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is not positive and finite, or ``iterations`` is not an integer.
    """

    radius: float
    iterations: int = 1
    _center: Tensor | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        settle(
            self,
            radius=number("radius", self.radius, above=0, owner=self),
            iterations=whole("iterations", self.iterations, least=1, owner=self),
        )

    def of_round(self, job: Job, server: Tensors) -> CenteredClipping:
        around = replace(self)
        settle(around, _center=server.get(_CENTER))
        return around

    def remember(self, aggregate: Aggregate, server: Tensors) -> None:
        server[_CENTER] = aggregate.delta.clone()

    def combined(self, cohort: Gathered) -> Aggregate:
        center = torch.zeros_like(cohort.delta[0]) if self._center is None else self._center
        away = cohort.delta - center
        weights = self._weights(away)
        extra = {name: weights @ rows for name, rows in cohort.extra.items()}
        return Aggregate(center + weights @ away, cohort.combined_buffers(median), extra)

    def _weights(self, away: Tensor) -> Tensor:
        """Return each row's weight in the step of v, in the rows' dtype ``[n]``; their sum is at most 1."""
        weights = torch.zeros(len(away), dtype=torch.float64, device=away.device)
        moved = torch.zeros_like(away[0])
        for _ in range(self.iterations):
            norms = row_norms(away - moved)
            factors = torch.where(norms > self.radius, self.radius / norms, 1.0) / len(away)
            weights = (1 - factors.sum()) * weights + factors
            moved = weights.to(away.dtype) @ away
        return weights.to(away.dtype)
