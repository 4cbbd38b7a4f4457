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
    buffers = [r.aggregate.buffers for r in rounds]
    weights = [r.report.examples for r in rounds]
    if len(rounds) == 1 or not any(weights):
        return buffers[0]
    merged: Tensors = {}
    for name, first in buffers[0].items():
        stack = torch.stack([b[name] for b in buffers])
        if first.is_floating_point() or first.is_complex():
            merged[name] = torch.tensordot(torch.tensor(weights).to(stack), stack, dims=1) / sum(weights)
        else:
            merged[name] = stack.amax(dim=0)
    return merged
