"""Norm clipping: one worker can move an unweighted mean by no more than C/n (Sun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from lightning_fed.core.arguments import number, settle
from lightning_fed.state import OwnTables
from lightning_fed.transforms.base import UpdateTransform
from lightning_fed.wire import Aggregate, Job, Updates


@final
@dataclass(frozen=True)
class ClipNorm(UpdateTransform):
    """Scale each worker's update so that its L2 norm, over all parameters together, is at most ``max_norm``.

    Args:
        max_norm: The bound C, in the units of the parameters.

    Raises:
        TypeError: If the bound is no number.
        ValueError: If it is not positive and finite.
    """

    max_norm: float

    def __post_init__(self) -> None:
        settle(self, max_norm=number("max_norm", self.max_norm, above=0, owner=self))

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        # In float64: the squares of a diverged float32 update overflow, and the bound must hold for just those.
        norm = torch.linalg.vector_norm(updates.delta, dim=1, dtype=torch.float64)
        scale = (self.max_norm / norm).clamp(max=1.0)  # a zero update: inf, clamped to 1
        return replace(updates, delta=updates.delta * scale.unsqueeze(1).to(updates.delta.dtype))

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate
