"""Metrics of single workers, on the side of a pooled evaluation.

Lightning pools over all batches, so what it reports is exact as if the workers' data were one set, and nothing here
touches that. A plain value is noted per worker as it is logged. A torchmetrics object accumulates over all workers;
what one of them added is the difference between its states before and after that worker's batches, for states that
add up (sums and lists, as in accuracy, F1, MSE, AUROC); a metric with other states (minimum, maximum, running mean)
has no value per worker.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, final

from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_sum

from lightning_fed.worker.recorder import Recorder

_State: TypeAlias = dict[str, Tensor | int]
"""A copy of a summed state, or how long a list state was."""


@final
class WorkerMetrics:
    """Notes what is logged during evaluation, worker by worker.

    Args:
        module: The user's module, whose torchmetrics objects are watched.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._recorder = Recorder()
        self._logged: dict[str, Metric] = {}
        self._before: dict[int, _State] = {}
        self._worker: str | None = None
        self.workers: dict[str, dict[str, float]] = {}

    def turn_to(self, worker: str | None, batch_size: Callable[[], int]) -> None:
        """The batches from now on are this worker's (None: nobody's)."""
        if worker != self._worker:
            self._close()
            self._worker = worker
            if worker is not None:
                self._before = {id(metric): _snapshot(metric) for metric in _metrics(self._module)}
        self._recorder.batch_size = batch_size

    def note(self, name: str, value: Any, options: Mapping[str, Any]) -> None:
        """Note a value that the current worker's batch logged."""
        if self._worker is None:
            return
        if isinstance(value, Metric):
            self._logged[name] = value
        else:
            self._recorder.log(name, value, **options)

    def finish(self) -> dict[str, dict[str, float]]:
        """Give ``{worker: {metric: value}}``; the next evaluation starts anew."""
        self.turn_to(None, lambda: 1)
        workers, self.workers = self.workers, {}
        return workers

    def _close(self) -> None:
        if self._worker is not None:
            _metrics(self._module)
            values = self._recorder.results()
            for name, metric in self._logged.items():
                share = _share(metric, self._before.get(id(metric), {}))
                if share is not None:
                    values[name] = share
            if values:
                self.workers[self._worker] = values
        self._recorder.clear()
        self._logged.clear()


def _metrics(module: nn.Module) -> list[Metric]:
    for part in module.modules():
        if isinstance(part, MetricCollection):
            part.items(copy_state=False)  # brings the members of a compute group up to date
    return [part for part in module.modules() if isinstance(part, Metric)]


def _snapshot(metric: Metric) -> _State:
    states = {name: getattr(metric, name) for name in metric._defaults}
    return {n: len(state) if isinstance(state, list) else state.clone() for n, state in states.items()}


def _share(metric: Metric, before: _State) -> float | None:
    """What the metric computes from what came after ``before``, or None if that cannot be told.

    The states are put back as they were. A worker's share of a float sum carries the rounding of the whole sum.
    """
    adds_up = all(reduction in (dim_zero_sum, dim_zero_cat) for reduction in metric._reductions.values())
    if not adds_up or not before:
        return None
    whole = {name: getattr(metric, name) for name in before}
    settings = metric.sync_on_compute, metric._to_sync, metric._computed
    metric.sync_on_compute = metric._to_sync = False  # one worker's value is one process's business
    metric._computed = None
    try:
        for name, earlier in before.items():
            state = whole[name]
            setattr(metric, name, state[earlier:] if isinstance(earlier, int) else state - earlier)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metric.compute())
    except Exception:  # undefined for so few examples, such as R² of one
        return None
    finally:
        for name, state in whole.items():
            setattr(metric, name, state)
        metric.sync_on_compute, metric._to_sync, metric._computed = settings
