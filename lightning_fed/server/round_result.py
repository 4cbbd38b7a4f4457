"""What comes of a round: its report, its aggregate, and the global buffers after a server step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch

from lightning_fed.core.tree import Tensors
from lightning_fed.wire import Aggregate
from lightning_fed.wire.report import RoundReport


@final
@dataclass(frozen=True)
class Round:
    """A round that has been run.

    Args:
        report: What its workers reported.
        aggregate: What came of their updates.
        seconds: How long it took.
        server: What the algorithm remembers at the server from here on.
        last_success: The number of the last cohort whose workers keep what they staged.
    """

    report: RoundReport
    aggregate: Aggregate
    seconds: float
    server: Tensors
    last_success: int | None


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
