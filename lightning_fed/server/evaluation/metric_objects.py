"""The torchmetrics objects of the user's module in an evaluation on several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import nn
from torchmetrics import Metric

from lightning_fed.wire.share import MetricState
from lightning_fed.worker.metric_states import NoSync, merged_state, metrics_of, put_state, state_of, state_on


@final
class MetricObjects:
    """Merges the objects of all processes, so that those of each hold all updates until the evaluation is over.

    Args:
        module: The user's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._own: list[tuple[Metric, MetricState, int]] = []
        self._alone: NoSync | None = None

    def begin(self) -> None:
        """Keep the objects from waiting for processes that have other numbers of batches."""
        self._alone = NoSync(list(metrics_of(self._module).values()))

    def states(self) -> dict[str, MetricState]:
        """Return what the objects of this process hold that were updated, by path and on the CPU."""
        updated = {path: metric for path, metric in metrics_of(self._module).items() if metric.update_count}
        return {path: state_on(state_of(metric), torch.device("cpu")) for path, metric in updated.items()}

    def merge(self, states: Sequence[Mapping[str, MetricState]]) -> None:
        """Merge what the objects of all processes hold into those of this one.

        Args:
            states: Those of each process, in order of rank.
        """
        for path, metric in metrics_of(self._module).items():
            parts = [state_on(theirs[path], metric.device) for theirs in states if path in theirs]
            own = state_of(metric)
            merged = merged_state(metric, parts)
            put_state(metric, merged)
            if merged.updates:
                self._own.append((metric, own, merged.updates))

    def end(self) -> None:
        """Put back into the objects what they held in this process alone."""
        for metric, own, updates in self._own:
            if metric.update_count == updates:  # else the user's code has reset it
                put_state(metric, own)
        self._own.clear()
        if self._alone is not None:
            self._alone.end()
            self._alone = None
