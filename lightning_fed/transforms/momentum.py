"""WorkerMomentum: Karimireddy, He & Jaggi, *Learning from History for Byzantine Robust Optimization*, 2021."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch

from lightning_fed.core.arguments import number, settle
from lightning_fed.state import OwnTables
from lightning_fed.transforms.base import UpdateTransform
from lightning_fed.wire import Aggregate, Job, Updates

_MOMENTUM = "momentum"


@final
@dataclass(frozen=True)
class WorkerMomentum(UpdateTransform):
    """Each worker sends ``m ← β m + (1 − β) Δ`` in place of its update, and remembers m (algorithm 2).

    Momentum that workers keep averages their noise over rounds before a robust aggregator compares them, so that lies
    have less room; momentum of the server optimizer comes after it, and gives none. A worker that takes part for the
    first time sends ``m = Δ``, as the paper's theorem has it (β is 0 in the first step) and its authors' code.

    The paper's m is of gradients, and each worker takes part in each step. After one local step of SGD both are the
    same, times the learning rate; where that changes, earlier updates count with the rates of their rounds, and where
    cohorts are drawn m is of the rounds that a worker was in. What an algorithm sends besides, and buffers, are not
    touched.

    A promise's clipping and noise come after it and act on m. So does ``ClipNorm`` if it stands behind it in
    ``transforms``.

    Args:
        momentum: β.
        dampening: ``m ← β m + (1 − dampening) Δ``, as in ``torch.optim.SGD``; None: β. The authors' code has 0, which
            makes steps 1/(1 − β) times as long.

    Raises:
        TypeError: If one of them is no number.
        ValueError: If one of them is not at least 0 and below 1.
    """

    momentum: float = 0.9
    dampening: float | None = None

    def __post_init__(self) -> None:
        dampening = self.dampening
        if dampening is not None:
            dampening = number("dampening", dampening, least=0, below=1, owner=self)
        settle(self, momentum=number("momentum", self.momentum, least=0, below=1, owner=self), dampening=dampening)

    @property
    def tables(self) -> tuple[str, ...]:
        return (_MOMENTUM,)

    def worker(self, updates: Updates, job: Job, own: OwnTables) -> Updates:
        share = 1 - (self.momentum if self.dampening is None else self.dampening)
        before = own.rows(_MOMENTUM, updates.workers, torch.zeros_like(updates.delta[0]))
        has_some = torch.tensor([own.has(_MOMENTUM, worker) for worker in updates.workers], device=before.device)
        smooth = self.momentum * before + share * updates.delta
        rows = torch.where(has_some.unsqueeze(1), smooth, updates.delta)
        own.stage(_MOMENTUM, updates.workers, rows)
        return replace(updates, delta=rows)

    def server(self, aggregate: Aggregate) -> Aggregate:
        return aggregate
