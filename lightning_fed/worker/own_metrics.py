"""The torchmetrics objects of a worker's copy of the module."""

from __future__ import annotations

from typing import final

from torch import nn
from torchmetrics import Metric

from lightning_fed.wire.metric_states import States
from lightning_fed.worker.log_calls import LogCalls
from lightning_fed.worker.sent_metrics import SentMetrics
from lightning_fed.worker.snapshot import metrics_in


@final
class OwnMetrics:
    """Empties the objects for each worker, and keeps them from waiting for other processes.

    Args:
        module: The workers' copy of the user's module.
        recorder: The recorder of logged values; the path of each object is registered there.
    """

    def __init__(self, module: nn.Module, recorder: LogCalls) -> None:
        self._all = [metric for metric in metrics_in(module) if isinstance(metric, Metric)]
        paths = {id(part): path for path, part in module.named_modules()}
        self._paths = recorder.paths = {id(metric): paths.get(id(metric)) for metric in self._all}
        self._sent = SentMetrics(module)
        self.unread: list[str] = []
        """The objects that a worker has filled and nobody can read, by name."""
        for metric in self._all:
            metric.sync_on_compute = metric.dist_sync_on_step = metric._to_sync = False

    def reset(self) -> None:
        """Empty the objects."""
        for metric in self._all:
            metric.reset()

    def states(self) -> States:
        """Return the states of the objects, as far as they may leave the worker."""
        return self._sent.states()

    def note(self) -> None:
        """Note objects that a worker has updated, and of which nothing is logged, computed, or sent."""
        for metric in self._all:
            is_read = metric._forward_cache is not None or metric._computed is not None
            # One without states is computed from others (CompositionalMetric), and notes of no value that it was read.
            if metric._defaults and metric.update_count and not is_read:
                name = self._paths.get(id(metric)) or type(metric).__name__
                if name not in self.unread and not self._sent.leaves(name):
                    self.unread.append(name)
