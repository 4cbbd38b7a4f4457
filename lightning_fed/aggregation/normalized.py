"""FedNova's normalised mean: Wang et al. 2020, equation 8."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar, final

import torch
from torch import Tensor

from lightning_fed.aggregation.base import Aggregator
from lightning_fed.aggregation.mean import Sums, WeightedMean
from lightning_fed.core.arguments import number, settle
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, Job, Updates


@final
@dataclass(frozen=True)
class NormalizedMean(Aggregator[tuple[Sums, Tensor]]):
    """``τ Σ wᵢ Δᵢ/aᵢ / Σ wᵢ`` with ``τ = Σ wᵢ aᵢ / Σ wᵢ``, with ``aᵢ`` the effective steps of worker i.

    Args:
        momentum: The momentum of the workers' SGD.
        shrinkage: The learning rate times the weight of a proximal term, ημ.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.
    """

    momentum: float = 0.0
    shrinkage: float = 0.0

    counts_steps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        settle(
            self,
            momentum=number("momentum", self.momentum, least=0, below=1),
            shrinkage=number("shrinkage", self.shrinkage, least=0),
        )

    def fold(self, updates: Iterable[Updates], job: Job) -> tuple[Sums, Tensor]:
        effective = torch.zeros((), dtype=torch.float64)

        def normalized() -> Iterator[Updates]:
            for update in updates:
                steps = [effective_steps(int(s), self.momentum, self.shrinkage) for s in update.steps.tolist()]
                a = torch.tensor(steps, dtype=torch.float64)
                effective.add_((update.weight * a).sum())
                divisor = torch.where(a == 0, 1.0, a)  # without steps there is nothing to divide
                yield replace(update, delta=update.delta / divisor.to(update.delta).unsqueeze(1))

        return WeightedMean().fold(normalized(), job), effective

    def finish(self, partial: tuple[Sums, Tensor], processes: Processes) -> Aggregate:
        sums, effective = partial
        total = torch.stack([effective, sums.weight])
        processes.sum_([total])
        mean = WeightedMean().finish(sums, processes)
        if not mean.changes:
            return mean
        return replace(mean, delta=mean.delta.mul_(float(total[0] / total[1])))


@lru_cache(maxsize=4096)
def effective_steps(steps: int, momentum: float = 0.0, shrinkage: float = 0.0) -> float:
    """Return the number of plain SGD steps that are equivalent to some steps of a local solver: ``‖a‖₁`` of the paper.

    ``a`` holds how far each gradient has moved the parameters in the end, in units of the learning rate. This depends
    only on the number of later steps, so the function follows a single gradient.

    Args:
        steps: The number of local steps τ.
        momentum: The momentum of SGD, ρ. Without shrinkage the result is (τ - ρ(1 - ρ^τ)/(1 - ρ))/(1 - ρ).
        shrinkage: The learning rate times the weight of a proximal term, ημ. Without momentum the result is
            (1 - (1 - ημ)^τ)/(ημ).

    >>> effective_steps(3), effective_steps(3, momentum=0.5), effective_steps(3, shrinkage=0.5)
    (3.0, 4.25, 1.75)
    """
    moved, velocity, total = 0.0, 0.0, 0.0
    for step in range(steps):
        velocity = momentum * velocity + (1.0 if step == 0 else 0.0) - shrinkage * moved
        moved += velocity
        total += abs(moved)
    return total
