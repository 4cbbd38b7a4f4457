"""What workers log in an evaluation: worker by worker, and pooled as if their data were one set.

A worker counts when its last batch is over, or not at all. A plain value is noted as it is logged. A torchmetrics
object accumulates over all workers; what one of them added is the difference between its states before and after that
worker's batches, for states that add up (sums and lists, as in accuracy, F1, MSE, AUROC); a metric with other states
(minimum, maximum, running mean) has no value per worker. What a worker that failed has added is taken out again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, final

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat, dim_zero_sum

from lightning_fed.worker.metric_states import MetricState, NoSync, metrics_of
from lightning_fed.worker.recorder import Part, Recorder


@final
class WorkerMetrics:
    """Notes what is logged during evaluation, worker by worker.

    Args:
        module: The user's module, whose torchmetrics objects are watched.
        failed: The workers that do not count.
    """

    def __init__(self, module: nn.Module, failed: Container[str | None]) -> None:
        self._module = module
        self._failed = failed
        self.clear()

    def clear(self) -> None:
        """Forget everything, for the next evaluation."""
        self._forget_worker()
        self.workers: dict[str, dict[str, float]] = {}
        """What was logged, by worker and name."""
        self.pooled: dict[str, Part] = {}
        """The plain values over all workers, by name."""
        self.objects: dict[str, str] = {}
        """The torchmetrics objects that were logged: the path of each in the module, by the name that it was given."""

    def _forget_worker(self) -> None:
        self._worker: str | None = None
        self._recorder = Recorder()
        self._logged: dict[str, Metric] = {}
        self._before: dict[str, MetricState] = {}

    def turn_to(self, worker: str | None, batch_size: Callable[[], int]) -> None:
        """The batches from now on are this worker's; None: of central data, or nobody's."""
        if worker != self._worker:
            self.close()
            self._worker = worker
            if worker is not None:
                self._before = {path: MetricState.of(metric) for path, metric in metrics_of(self._module).items()}
        self._recorder.batch_size = batch_size

    def note(self, name: str, value: Any, options: Mapping[str, Any]) -> None:
        """Note a value that the current worker's batch logged."""
        if isinstance(value, Metric):
            self._logged[name] = value
        else:
            self._recorder.log(name, value, **options)

    def close(self) -> None:
        """End the current worker's batches: it counts from now on, or if it has failed, it never did.

        Raises:
            ValueError: If a torchmetrics object was logged that is no part of the module.
        """
        metrics = metrics_of(self._module)
        if self._worker in self._failed:
            for path, before in self._before.items():
                if path in metrics:
                    before.put(metrics[path])
        else:
            parts = self._recorder.parts()
            for name, part in parts.items():
                self.pooled[name] = self.pooled[name].merged(part) if name in self.pooled else part
            paths = {id(metric): path for path, metric in metrics.items()}
            for name, metric in self._logged.items():
                if id(metric) not in paths:
                    raise ValueError(
                        f"the torchmetrics object that is logged as {name!r} is no part of "
                        f"{type(self._module).__name__}; make it an attribute there"
                    )
                self.objects[name] = paths[id(metric)]
            if self._worker is not None:
                self._note_worker(self._worker, {name: part.value for name, part in parts.items()}, paths)
        self._forget_worker()

    def _note_worker(self, worker: str, values: dict[str, float], paths: Mapping[int, str]) -> None:
        for name, metric in self._logged.items():
            share = _share(metric, self._before.get(paths[id(metric)]))
            if share is not None:
                values[name] = share
        self.workers[worker] = values


def _share(metric: Metric, before: MetricState | None) -> float | None:
    """What the metric computes from what came after ``before``, or None if that cannot be told.

    The states are put back as they were. A worker's share of a float sum carries the rounding of the whole sum.
    """
    adds_up = all(reduction in (dim_zero_sum, dim_zero_cat) for reduction in metric._reductions.values())
    if not adds_up or before is None or not before.states:
        return None
    whole = {name: getattr(metric, name) for name in before.states}
    alone, computed = NoSync([metric]), metric._computed  # one worker's value is one process's business
    metric._computed = None
    try:
        for name, earlier in before.states.items():
            state = whole[name]
            setattr(metric, name, state - earlier if isinstance(earlier, Tensor) else state[len(earlier) :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metric.compute())
    except Exception:  # undefined for so few examples, such as R² of one
        return None
    finally:
        for name, state in whole.items():
            setattr(metric, name, state)
        alone.end()
        metric._computed = computed
