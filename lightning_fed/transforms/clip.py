"""Norm clipping: one worker moves an unweighted mean by at most C/n (Sun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from lightning_fed.core.arguments import number, settle
from lightning_fed.core.double import row_norms, scaled_rows
from lightning_fed.state import OwnTables
from lightning_fed.transforms.base import UpdateTransform
from lightning_fed.wire import Aggregate, Job, Updates

_SLACK = 1 - 2.0**-40  # for the rounding of the norm, which is smaller in float64


@final
@dataclass(frozen=True)
class ClipNorm(UpdateTransform):
    """Scales each worker's update to an L2 norm, over all parameters together, of at most ``max_norm``.

    The bound holds for the rounded numbers that leave the worker: for numbers of any size, also those whose squares
    overflow, and for models of any size. Only ``delta`` is bounded: buffers, and further vectors of an algorithm
    (``extra``, such as SCAFFOLD's), leave as they are.

    Args:
        max_norm: The bound C, in the units of the parameters.

    Raises:
        TypeError: If the bound is not a number.
        ValueError: If it is not positive and finite.
    """

    max_norm: float

    def __post_init__(self) -> None:
        settle(self, max_norm=number("max_norm", self.max_norm, above=0, owner=self))

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        norms, bound = row_norms(updates.delta), self.max_norm * _SLACK
        if bool((norms <= bound).all()):
            return updates
        scales = torch.where(norms > bound, bound / norms, 1.0)
        return replace(updates, delta=scaled_rows(updates.delta, scales))

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate
