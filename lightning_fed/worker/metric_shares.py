"""Metrics of workers in an evaluation: worker by worker, and pooled as if their data were one set.

A worker counts when its last batch is over, or not at all. A plain value is noted as it is logged. A torchmetrics
object accumulates over all workers; what one of them added is the difference between its states before and after that
worker's batches, for states that add up (sums and lists, as in accuracy, F1, MSE, AUROC); a metric with other states
(minimum, maximum, running mean) has no value per worker. What a worker that failed has added is taken out again.

If workers have several loaders, all first ones come before all second ones, and a worker may fail at its second. Its
part of a torchmetrics object could then not be taken out: each worker begins with an empty one, and the states of those
that did not fail are merged when all are through.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Container, Mapping
from typing import Any, final

from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat, dim_zero_sum

from lightning_fed._lightning import _extract_batch_size
from lightning_fed.wire.logged import Part, merged
from lightning_fed.wire.share import MetricState
from lightning_fed.worker.metric_states import NoSync, empty_state, merged_state, metrics_of, put_state, state_of
from lightning_fed.worker.recorder import Recorder


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
        self._values: dict[str, dict[str, float]] = {}
        self._parts: dict[str | None, dict[str, Part]] = {}
        self._states: dict[str | None, list[dict[str, MetricState]]] = {}
        self._examples: dict[str, int | None] = {}  # None: a batch of the worker's has no size that can be read
        self.objects: dict[str, str] = {}
        """The torchmetrics objects that were logged: the path of each in the module, by the name that it was given."""

    @property
    def workers(self) -> dict[str, dict[str, float]]:
        """Logged values by worker and name."""
        return {worker: values for worker, values in self._values.items() if worker not in self._failed}

    @property
    def examples(self) -> dict[str, int]:
        """The number of examples of each worker whose batches all have a size."""
        counted = {worker: number for worker, number in self._examples.items() if number is not None}
        return {worker: number for worker, number in counted.items() if worker not in self._failed}

    @property
    def pooled(self) -> dict[str, Part]:
        """The plain values over all workers, by name."""
        return merged(parts for worker, parts in self._parts.items() if worker not in self._failed)

    def _forget_worker(self) -> None:
        self._worker: str | None = None
        self._loader: int | None = None
        self._recorder = Recorder()
        self._recorder.hook = "validation_step"  # by default about an epoch; so is a test
        self._logged: dict[str, Metric] = {}
        self._before: dict[str, MetricState] = {}

    def turn_to(self, worker: str | None, batch_size: Callable[[], int], loader: int | None = None) -> None:
        """Note whose the batches are from now on; None: they are of central data.

        Args:
            worker: Its name.
            batch_size: Tells the size of a batch.
            loader: The number of its loader, if it has several.
        """
        if (worker, loader) != (self._worker, self._loader):
            self.close()
            self._worker, self._loader = worker, loader
            if worker is not None:
                metrics = metrics_of(self._module)
                self._before = {path: state_of(metric) for path, metric in metrics.items()}
                if loader is not None:
                    for metric in metrics.values():
                        put_state(metric, empty_state(metric))
        self._recorder.batch_size = batch_size

    def note(self, name: str, value: Any, options: Mapping[str, Any]) -> None:
        """Note a value that the current worker's batch logged."""
        if isinstance(value, Metric):
            self._logged[name] = value
            if options.get("batch_size") is not None:
                self._recorder.said.add(options["batch_size"])
        else:
            self._recorder.log(name, value, **options)

    def count(self, batch: Any) -> None:
        """Count the examples of a batch of the current worker's: as many as were given to ``self.log``, or its length.

        Args:
            batch: The batch.
        """
        if self._worker is None:
            return
        said = self._recorder.said
        size = max(said) if said else length_of(batch)
        said.clear()
        before = self._examples.get(self._worker, 0)
        self._examples[self._worker] = None if size is None or before is None else before + size

    def close(self) -> None:
        """End the current worker's batches: it counts from now on, or if it has failed, it never did.

        Raises:
            ValueError: If a torchmetrics object was logged that is no part of the module.
        """
        metrics = metrics_of(self._module)
        before = {path: state for path, state in self._before.items() if path in metrics}
        if self._worker not in self._failed:
            self._count(metrics)
        if self._worker in self._failed or self._loader is not None:
            for path, state in before.items():
                put_state(metrics[path], state)
        self._forget_worker()

    def _count(self, metrics: Mapping[str, Metric]) -> None:
        worker = self._worker
        parts = self._recorder.parts()
        self._parts[worker] = merged([self._parts.get(worker, {}), parts])
        paths = {id(metric): path for path, metric in metrics.items()}
        for name, metric in self._logged.items():
            if id(metric) not in paths:
                raise ValueError(
                    f"the torchmetrics object that is logged as {name!r} is no part of "
                    f"{type(self._module).__name__}; make it an attribute there"
                )
            self.objects[name] = paths[id(metric)]
        if worker is None:
            return
        if self._loader is None:
            shares = {name: _share(m, self._before.get(paths[id(m)])) for name, m in self._logged.items()}
        else:
            shares = {name: _value(metric) for name, metric in self._logged.items()}
            states = {path: state_of(metric) for path, metric in metrics.items() if metric.update_count}
            self._states.setdefault(worker, []).append(states)
        values = self._values.setdefault(worker, {})
        values |= {name: part.value for name, part in parts.items()}
        values |= {name: share for name, share in shares.items() if share is not None}

    def merge(self) -> None:
        """Let each torchmetrics object hold what the workers that did not fail have added by their several loaders."""
        states = [own for worker, theirs in self._states.items() if worker not in self._failed for own in theirs]
        for path, metric in metrics_of(self._module).items() if states else ():
            state = merged_state(metric, [own[path] for own in states if path in own])
            if state.updates:
                put_state(metric, state)
        self._states.clear()


def length_of(batch: Any) -> int | None:
    """Return the length of the first tensor in a batch, as Lightning looks for it, in silence; None: there is none.

    Args:
        batch: The batch.
    """
    try:
        return next((size for size in _extract_batch_size(batch) if size is not None), None)
    except Exception:  # user code iterates, or it holds itself
        return None


def _share(metric: Metric, before: MetricState | None) -> float | None:
    """Return what the metric computes from what came after ``before``, or None if the metric does not allow it.

    The states are put back as they were. A worker's share of a float sum carries the rounding of the whole sum.
    """
    adds_up = all(reduction in (dim_zero_sum, dim_zero_cat) for reduction in metric._reductions.values())
    if not adds_up or before is None or not before.states:
        return None
    whole = {name: getattr(metric, name) for name in before.states}
    try:
        for name, earlier in before.states.items():
            state = whole[name]
            setattr(metric, name, state - earlier if isinstance(earlier, Tensor) else state[len(earlier) :])
        return _value(metric)
    finally:
        for name, state in whole.items():
            setattr(metric, name, state)


def _value(metric: Metric) -> float | None:
    """Return what a metric computes; None if that is no number, or undefined for so few examples, such as R² of one."""
    alone, computed = NoSync([metric]), metric._computed  # one worker's value is one process's business
    metric._computed = None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(metric.compute())
    except Exception:
        return None
    finally:
        alone.end()
        metric._computed = computed
