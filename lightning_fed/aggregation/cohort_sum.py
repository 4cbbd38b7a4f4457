"""The sum of a cohort's updates, where nobody has seen one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from torch import Tensor

from lightning_fed.core.tree import Tensors


@final
@dataclass(frozen=True)
class CohortSum:
    """Sums over the workers of a cohort; ``wᵢ`` is what worker i counts for, from 0 to 1.

    Args:
        delta: ``Σ wᵢ Δᵢ``; float64 ``[size]``.
        buffers: ``Σ wᵢ (bᵢ − b)`` of float buffers, by name, where b is the global one; float64.
        extra: ``Σ wᵢ`` times what an algorithm has workers send besides, by name; float64 ``[size]``.
        weight: ``Σ wᵢ``.
        within: The number of workers whose updates were not longer than the bound.
        workers: The number of workers.
        step: The number of which all of ``delta`` and ``extra`` are multiples; 0: there is no such number.
    """

    delta: Tensor
    buffers: Tensors
    extra: Tensors
    weight: float
    within: float
    workers: int
    step: float = 0.0
