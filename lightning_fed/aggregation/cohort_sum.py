"""The sum of a cohort's updates, of which no party has seen a single one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from lightning_fed.core.tree import Tensors


@final
@dataclass(frozen=True)
class CohortSum:
    """Sums over the workers of a cohort; ``wᵢ`` is worker i's weight, from 0 to 1.

    Args:
        delta: ``Σ wᵢ Δᵢ``; float64 ``[size]``.
        buffers: ``Σ wᵢ (bᵢ − b)`` of float buffers, by name, where b is the global one; float64.
        extra: ``Σ wᵢ`` times an algorithm's extra vectors, by name; float64 ``[size]``.
        weight: ``Σ wᵢ``.
        within: The number of workers whose updates were not longer than the bound.
        workers: The number of workers.
        step: All numbers of ``delta`` and ``extra`` are multiples of ``step``; 0: no such step exists.
    """

    delta: Tensor
    buffers: Tensors
    extra: Tensors
    weight: float
    within: float
    workers: int
    step: float = 0.0
