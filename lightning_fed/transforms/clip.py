"""Norm clipping: one worker can move an unweighted mean by no more than C/n (Sun et al. 2019)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from lightning_fed.core.arguments import number, settle
from lightning_fed.core.double import row_norms, scaled_rows
from lightning_fed.state import OwnTables
from lightning_fed.transforms.base import UpdateTransform
from lightning_fed.wire import Aggregate, Job, Updates

_SLACK = 1 - 2.0**-40  # for the norm, which float64 gives to ten digits and more


@final
@dataclass(frozen=True)
class ClipNorm(UpdateTransform):
    """Scale each worker's update so that its L2 norm, over all parameters together, is at most ``max_norm``.

    The bound holds for what leaves the worker, rounded as it is: for numbers of any size, also those whose squares
    overflow, and for models of any size.

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
        norms, bound = row_norms(updates.delta), self.max_norm * _SLACK
        scales = torch.where(norms > bound, bound / norms, 1.0)
        return replace(updates, delta=scaled_rows(updates.delta, scales))

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate
