"""Result of a round: its report, its aggregate, and the global buffers after a server step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import torch

from lightning_fed.core.tree import Tensors
from lightning_fed.server.round import Outcome
from lightning_fed.server.traffic import Traffic
from lightning_fed.wire import Aggregate
from lightning_fed.wire.logged import Logged
from lightning_fed.wire.report import RoundReport


@final
@dataclass(frozen=True)
class Round:
    """A round that has been run.

    Args:
        cohort: The number of its cohort.
        outcome: What came of it.
        report: What its workers reported, as far as it may be shown.
        seconds: How long it took.
        asked: The names of its cohort, as far as they may be shown.
        traffic: What has travelled; where that is hidden, what was planned.
        took_part: The positions of the workers that have sent an update, as far as it may be shown.
    """

    cohort: int
    outcome: Outcome
    report: RoundReport
    seconds: float
    asked: Sequence[str] = ()
    traffic: Traffic = field(default_factory=Traffic)
    took_part: Sequence[int] = ()

    @property
    def aggregate(self) -> Aggregate:
        """The pseudo-gradient and the new buffers."""
        return self.outcome.aggregate

    @cached_property
    def logged(self) -> dict[str, Logged]:
        """The values that the cohort logged, by name."""
        return self.report.logged()


def merged_buffers(rounds: Sequence[Round]) -> Tensors:
    """The global buffers after a server step: those of its one cohort, or the mean over accumulated cohorts.

    Weights are numbers of examples; integer buffers take the maximum.
    """
    weights = [r.report.examples for r in rounds]
    newest = rounds[-1].aggregate.buffers
    if len(rounds) == 1 or not any(weights):
        return newest
    merged: Tensors = {}
    for name, last in newest.items():
        there = [
            (r.aggregate.buffers[name], w) for r, w in zip(rounds, weights, strict=True) if name in r.aggregate.buffers
        ]
        alike = [(buffer, weight) for buffer, weight in there if buffer.shape == last.shape]
        stack, own = torch.stack([buffer for buffer, _ in alike]), torch.tensor([weight for _, weight in alike])
        if last.is_floating_point() or last.is_complex():
            merged[name] = torch.tensordot(own.to(stack), stack, dims=1) / float(own.sum())
        else:
            merged[name] = stack.amax(dim=0)
    return merged
