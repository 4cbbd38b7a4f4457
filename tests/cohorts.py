"""Updates made by hand, for tests of aggregators."""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_fed.wire import GlobalModel, Job, LocalTraining, Updates


def job(parameters: dict[str, Tensor], buffers: dict[str, Tensor] | None = None) -> Job:
    """What was sent."""
    return Job(0, 0, 0, GlobalModel(parameters, buffers or {}), LocalTraining())


def stack(
    delta: Tensor, weight: list[float], buffers: dict[str, Tensor] | None = None, steps: list[int] | None = None
) -> Updates:
    """What came back."""
    return Updates(
        cohort=0,
        workers=tuple(f"w{i}" for i in range(len(weight))),
        delta=delta,
        buffers=buffers or {},
        examples=torch.tensor(weight, dtype=torch.float64),
        weight=torch.tensor(weight, dtype=torch.float64),
        loss=torch.zeros(len(weight), dtype=torch.float64),
        steps=torch.ones(len(weight), dtype=torch.float64) if steps is None else torch.tensor(steps).double(),
    )
