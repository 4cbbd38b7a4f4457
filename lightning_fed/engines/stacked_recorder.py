"""What n workers log while they train in lockstep.

Under ``torch.vmap`` a value has no number yet: the user's ``training_step`` runs once for all workers, on tensors that
stand for one worker's. So what it logs leaves the step as an output, and so do the arguments of torchmetrics objects;
the metrics themselves are updated afterwards, worker by worker, on the numbers.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchmetrics import Metric, MetricCollection

from lightning_fed.engines.recorder import Recorder, reduction_of

Rows: TypeAlias = "slice | Tensor"
"""Some of the workers: a range, or int64 positions."""

_REDUCE: dict[str, tuple[float, Callable[..., Any]]] = {
    "mean": (0.0, np.add),
    "sum": (0.0, np.add),
    "min": (np.inf, np.minimum),
    "max": (-np.inf, np.maximum),
}


@dataclass
class _Feed:
    """Arguments that a metric was called with; tensors among them are given by their place among the outputs."""

    target: Metric | MetricCollection
    places: list[int | None]
    constants: list[Any]
    structure: Any
    value_is_logged: bool = False


@dataclass(frozen=True)
class _Value:
    """What stands for the value of a metric on a batch; it can be logged, and nothing else."""

    feed: _Feed
    key: str | None


@dataclass(frozen=True)
class _Logged:
    """A call of ``self.log``: of an output (by its place), of a metric's value on the batch, or of a metric."""

    name: str
    value: int | _Value | Metric
    reduction: str
    batch_size: int | None


Events: TypeAlias = "list[_Feed | _Logged]"
"""What a step did, in order."""


@dataclass
class _Step:
    rows: Rows
    batch_size: int
    outputs: Sequence[Tensor]
    events: Events


@final
class StackedRecorder:
    """Takes the place of ``self.log``, ``self.log_dict`` and torchmetrics objects while n workers train in lockstep."""

    def __init__(self) -> None:
        self.outputs: list[Tensor] = []
        """What has to leave the step that is running."""
        self.events: Events = []
        """What the step did, in order."""
        self._steps: list[_Step] = []

    def log(
        self,
        name: str,
        value: Any,
        prog_bar: bool = False,
        logger: bool | None = None,
        on_step: bool | None = None,
        on_epoch: bool | None = None,
        reduce_fx: Any = "mean",
        enable_graph: bool = False,
        sync_dist: bool = False,
        sync_dist_group: Any = None,
        add_dataloader_idx: bool = True,
        batch_size: int | None = None,
        metric_attribute: str | None = None,
        rank_zero_only: bool = False,
    ) -> None:
        """Note a value; takes the arguments of ``LightningModule.log``, as :meth:`Recorder.log` does.

        Raises:
            TypeError: If the value is no number, one-element tensor, torchmetrics object, or dict of those.
            ValueError: If the reduction is unknown.
        """
        if isinstance(value, Mapping):
            for key, item in value.items():
                self.log(f"{name}.{key}", item, reduce_fx=reduce_fx, batch_size=batch_size)
            return
        noted: int | _Value | Metric
        if isinstance(value, _Value):
            value.feed.value_is_logged = True
            noted = value
        elif isinstance(value, Metric):
            noted = value
        elif isinstance(value, Tensor):
            if value.numel() != 1:
                raise TypeError(f"self.log({name!r}, ...): a tensor must have one element, not the shape {value.shape}")
            noted = self._output(value.detach().reshape(()))
        elif isinstance(value, numbers.Number):
            noted = self._output(torch.tensor(float(cast(float, value))))
        else:
            raise TypeError(f"self.log({name!r}, ...): cannot log a {type(value).__name__}")
        reduction = "mean" if isinstance(value, Metric) else reduction_of(name, reduce_fx)
        self.events.append(_Logged(name, noted, reduction, batch_size))

    def log_dict(self, dictionary: Mapping[str, Any] | MetricCollection, *places: Any, **options: Any) -> None:
        """Note several values; takes the arguments of ``LightningModule.log_dict``."""
        items = (
            dictionary.items(keep_base=False, copy_state=False)
            if isinstance(dictionary, MetricCollection)
            else dictionary.items()
        )
        for name, value in items:
            self.log(str(name), value, *places, **options)

    def _output(self, tensor: Tensor) -> int:
        self.outputs.append(tensor)
        return len(self.outputs) - 1

    @contextmanager
    def listening(self, module: nn.Module) -> Iterator[None]:
        """Stand in for the module's metrics while a step runs."""
        self.outputs, self.events = [], []
        shadows: list[tuple[nn.Module, str, Any]] = []
        for part in module.modules():
            if isinstance(part, (Metric, MetricCollection)):
                for name, stand_in in self._stand_ins(part).items():
                    shadows.append((part, name, part.__dict__.get(name)))
                    part.__dict__[name] = stand_in
        try:
            yield
        finally:
            for part, name, before in shadows:
                if before is None:
                    del part.__dict__[name]
                else:
                    part.__dict__[name] = before

    def _stand_ins(self, metric: Metric | MetricCollection) -> dict[str, Callable[..., Any]]:
        def feed(*args: Any, **kwargs: Any) -> _Feed:
            leaves, structure = pytree.tree_flatten((args, kwargs))
            places = [self._output(leaf.detach()) if isinstance(leaf, Tensor) else None for leaf in leaves]
            constants = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            fed = _Feed(metric, places, constants, structure)
            self.events.append(fed)
            return fed

        def forward(*args: Any, **kwargs: Any) -> Any:
            fed = feed(*args, **kwargs)
            if isinstance(metric, Metric):
                return _Value(fed, None)
            return {name: _Value(fed, name) for name, _ in metric.items(keep_base=False, copy_state=False)}

        def update(*args: Any, **kwargs: Any) -> None:
            feed(*args, **kwargs)

        def refuse(*_: Any, **__: Any) -> Any:
            raise RuntimeError("a metric's compute() or reset() within training_step needs one worker at a time")

        return {"forward": forward, "update": update, "compute": refuse, "reset": refuse}

    def take(self, rows: Rows, batch_size: int, outputs: Sequence[Tensor], events: Events) -> None:
        """Keep what left a step.

        Args:
            rows: The workers that took the step.
            batch_size: The number of examples in each one's batch.
            outputs: What left it; ``[rows, ...]`` each.
            events: What it did.
        """
        if events:
            self._steps.append(_Step(rows, batch_size, outputs, events))

    def clear(self) -> None:
        """Forget everything."""
        self._steps.clear()

    def finish(self, n: int) -> list[dict[str, float]]:
        """Reduce everything that was logged to one number per name, for each of the n workers, and forget it."""
        steps, self._steps = self._steps, []
        results = _reduced(steps, n)
        if any(isinstance(event, _Feed) for step in steps for event in step.events):
            for worker, metrics in enumerate(results):
                metrics.update(_replayed(steps, worker, n))
        return results


@dataclass
class _Sum:
    reduction: str
    values: NDArray[np.float64]
    weights: NDArray[np.float64]


def _reduced(steps: list[_Step], n: int) -> list[dict[str, float]]:
    """The numbers that were logged, for all workers at once."""
    logged = [
        (step, event, step.outputs[event.value])
        for step in steps
        for event in step.events
        if isinstance(event, _Logged) and isinstance(event.value, int)
    ]
    if not logged:
        return [{} for _ in range(n)]
    # One copy from an accelerator, not one per value.
    flat = torch.cat([output.to(torch.float64) for _, _, output in logged]).cpu().numpy()
    sums: dict[str, _Sum] = {}
    start = 0
    for step, event, output in logged:
        values = flat[start : start + len(output)]
        start += len(output)
        neutral, operation = _REDUCE[event.reduction]
        total = sums.setdefault(event.name, _Sum(event.reduction, np.full(n, neutral), np.zeros(n)))
        rows = step.rows if isinstance(step.rows, slice) else step.rows.numpy()
        weight = 1 if event.reduction != "mean" else step.batch_size if event.batch_size is None else event.batch_size
        if event.reduction == "mean":
            values = values * weight
        total.values[rows] = operation(total.values[rows], values)
        total.weights[rows] += weight
    columns = {
        name: total.values / np.maximum(total.weights, 1) if total.reduction == "mean" else total.values
        for name, total in sums.items()
    }
    if all(total.weights.all() for total in sums.values()):
        return [dict(zip(columns, row, strict=True)) for row in np.stack(list(columns.values()), axis=1).tolist()]
    return [{name: float(column[i]) for name, column in columns.items() if sums[name].weights[i]} for i in range(n)]


def _replayed(steps: list[_Step], worker: int, n: int) -> dict[str, float]:
    """One worker's metrics: fed and logged as the steps did."""
    recorder = Recorder()
    values: dict[int, Any] = {}
    targets = {id(e.target): e.target for step in steps for e in step.events if isinstance(e, _Feed)}
    for target in targets.values():
        target.reset()
    for step in steps:
        row = _position(step.rows, worker, n)
        if row is None:
            continue
        for event in step.events:
            if isinstance(event, _Feed):
                leaves = [
                    constant if place is None else step.outputs[place][row]
                    for place, constant in zip(event.places, event.constants, strict=True)
                ]
                args, kwargs = pytree.tree_unflatten(leaves, event.structure)
                if event.value_is_logged:
                    values[id(event)] = event.target(*args, **kwargs)
                else:
                    event.target.update(*args, **kwargs)
            elif isinstance(event.value, _Value):
                value = values[id(event.value.feed)]
                value = value if event.value.key is None else value[event.value.key]
                size = step.batch_size if event.batch_size is None else event.batch_size
                recorder.log(event.name, value, reduce_fx=event.reduction, batch_size=size)
            elif isinstance(event.value, Metric):
                recorder.log(event.name, event.value)
    return recorder.results()


def _position(rows: Rows, worker: int, n: int) -> int | None:
    """Where a worker stands among some rows, or None if it is not among them."""
    if isinstance(rows, slice):
        inside = range(n)[rows]
        return inside.index(worker) if worker in inside else None
    found = (rows == worker).nonzero().flatten().tolist()
    return found[0] if found else None
