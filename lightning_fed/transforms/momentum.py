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
    """Replaces each worker's update by ``m ← β m + (1 − β) Δ``, with m in the worker's own state (algorithm 2).

    Worker momentum averages the workers' noise over rounds before a robust aggregator compares the updates, which
    leaves attackers less room. Momentum of the server optimizer acts after the aggregator and does not have this
    effect. A worker that takes part for the first time sends ``m = Δ``, as in the paper's theorem (β is 0 in the first
    step) and in its authors' code.

    The paper's m averages gradients, and each worker takes part in each step. After one local step of SGD the update is
    the gradient times the learning rate. If the learning rate changes, earlier updates keep the rates of their rounds;
    if cohorts are drawn, m averages the rounds in which the worker took part. An algorithm's extra vectors and buffers
    stay unchanged.

    The clipping and the noise of a promise act on m. So does a ``ClipNorm`` that follows in ``transforms``.

    Args:
        momentum: β.
        dampening: ``m ← β m + (1 − dampening) Δ``, as in ``torch.optim.SGD``; None: β. The authors' code has 0, which
            makes steps 1/(1 − β) times as long.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is negative, or not below 1.
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
