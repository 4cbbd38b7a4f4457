"""Recorder of what n workers log while they train in lockstep.

Under ``torch.vmap`` a value has no number yet: the user's ``training_step`` runs once for all workers, on tensors that
stand for one worker's. So what it logs leaves the step as an output, and so do the arguments of torchmetrics objects;
the metrics themselves are updated afterwards, worker by worker, on the numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torchmetrics import Metric, MetricCollection

from lightning_fed.wire.logged import Shown
from lightning_fed.wire.metric_states import States, neutral
from lightning_fed.worker.log_calls import Key, LogCalls, one_number
from lightning_fed.worker.recorder import Recorder

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
    """Stand-in for the value of a metric on a batch; it can be logged, and nothing else."""

    feed: _Feed
    key: str | None


@dataclass(frozen=True)
class _Call:
    """A call of ``self.log``: of an output (by its place), of a metric's value on the batch, or of a metric."""

    shown: Shown
    value: int | _Value | Metric
    batch_size: int | None


Events: TypeAlias = "list[_Feed | _Call]"
"""Events of a step, in order."""


@dataclass
class _Step:
    rows: Rows
    batch_size: int
    loss: Tensor
    outputs: Sequence[Tensor]
    events: Events
    said: int | None = None


def _said(events: Events, guess: int, is_guess: bool) -> int | None:
    """The batch size that a step has logged with, as :class:`~lightning_fed.worker.batch_sizes.BatchSizes` reads it."""
    sizes = {e.batch_size for e in events if isinstance(e, _Call) and e.batch_size is not None} if is_guess else set()
    if len(sizes) == 1:
        (size,) = sizes
        return size
    return guess if guess in sizes else None


@final
@dataclass
class Logged:
    """Values that n workers logged, reduced to one number per name and worker.

    Args:
        loss: The mean loss over the local steps; ``[n]``.
        values: ``[n]`` for each name.
        present: Which workers logged under it; bool ``[n]``.
        shown: How it is shown, where that is not ``Shown(name)``.
        states: The workers' own states of torchmetrics objects; ``{reduction: {name: [n, ...]}}``.
    """

    loss: NDArray[np.float64]
    values: dict[str, NDArray[np.float64]]
    present: dict[str, NDArray[np.bool_]]
    shown: dict[str, Shown]
    states: States = field(default_factory=dict)

    def rows(self, keep: Sequence[int]) -> Logged:
        """Return the logged values of some of the workers."""
        return Logged(
            loss=self.loss[keep],
            values={name: values[keep] for name, values in self.values.items()},
            present={name: present[keep] for name, present in self.present.items()},
            shown=self.shown,
            states={kind: {name: rows[keep] for name, rows in own.items()} for kind, own in self.states.items()},
        )

    def groups(self) -> list[tuple[int, int, list[str]]]:
        """Cut the workers into groups that logged under the same names: the first, the one after the last, names."""
        names, n = list(self.values), len(self.loss)
        if all(present.all() for present in self.present.values()):
            return [(0, n, names)]
        own = [[name for name in names if self.present[name][worker]] for worker in range(n)]
        starts = [worker for worker in range(n) if worker == 0 or own[worker] != own[worker - 1]]
        return [(start, stop, own[start]) for start, stop in pairwise([*starts, n])]


@final
class StackedRecorder(LogCalls):
    """Takes the place of ``self.log``, ``self.log_dict`` and torchmetrics objects while n workers train in lockstep."""

    def __init__(self) -> None:
        super().__init__()
        self.outputs: list[Tensor] = []
        """Tensors that have to leave the step that is running."""
        self.events: Events = []
        """Events of the step, in order."""
        self._steps: list[_Step] = []
        self.states: Callable[[], States] = dict
        """Returns what one worker's torchmetrics objects hold, as far as it may leave."""

    def _take(self, key: Key, shown: Shown, value: Any, batch_size: int | None) -> None:
        noted: int | _Value | Metric
        if isinstance(value, _Value):
            value.feed.value_is_logged = True
            noted = value
        elif isinstance(value, Metric):
            noted = value
        else:
            number = one_number(shown.name, value)
            noted = self._output(number.detach().reshape(()) if isinstance(number, Tensor) else torch.tensor(number))
        self.events.append(_Call(shown, noted, batch_size))

    def _has_taken(self, key: Key) -> bool:
        events = [self.events, *(step.events for step in self._steps)]
        return any(isinstance(event, _Call) and event.shown.name == key[1] for some in events for event in some)

    def _output(self, tensor: Tensor) -> int:
        self.outputs.append(tensor)
        return len(self.outputs) - 1

    @contextmanager
    def listening(self, metrics: Sequence[Metric | MetricCollection]) -> Iterator[None]:
        """Stand in for metrics while steps run."""
        shadows: list[tuple[nn.Module, str, Any]] = []
        for metric in metrics:
            for name, stand_in in self._stand_ins(metric).items():
                shadows.append((metric, name, metric.__dict__.get(name)))
                metric.__dict__[name] = stand_in
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

    def begin_step(self) -> None:
        """Begin to note what the next step logs and feeds."""
        self.outputs, self.events = [], []

    def take(
        self,
        rows: Rows,
        batch_size: int,
        loss: Tensor,
        outputs: Sequence[Tensor],
        events: Events,
        is_guess: bool = False,
    ) -> None:
        """Keep what left a step.

        Args:
            rows: The workers that took the step.
            batch_size: The number of examples in each one's batch.
            loss: Their losses; ``[rows]``.
            outputs: The logged values; ``[rows, ...]`` each.
            events: The events of the step.
            is_guess: Whether the number of examples is another one if the step has logged with one.
        """
        self._steps.append(_Step(rows, batch_size, loss, outputs, events, _said(events, batch_size, is_guess)))

    def said(self, n: int) -> list[list[int | None]]:
        """The batch sizes that user code has logged in each worker's steps (n workers); None: it has logged none."""
        sizes: list[list[int | None]] = [[] for _ in range(n)]
        for step in self._steps:
            for worker in range(n)[step.rows] if isinstance(step.rows, slice) else step.rows.tolist():
                sizes[worker].append(step.said)
        return sizes

    def clear(self) -> None:
        """Forget everything."""
        self._steps.clear()

    def finish(self, n: int) -> Logged:
        """Reduce everything that was logged, for each of the n workers, and clear the record."""
        steps, self._steps = self._steps, []
        logged = _reduced(steps, n)
        if any(isinstance(event, _Feed) for step in steps for event in step.events):
            states: dict[int, States] = {}
            for worker in range(n):
                recorder = _replayed(steps, worker, n)
                states[worker] = self.states()
                logged.shown |= recorder.shown()
                for name, value in recorder.results().items():
                    if name not in logged.values:
                        logged.values[name] = np.full(n, np.nan)
                        logged.present[name] = np.zeros(n, dtype=bool)
                    logged.values[name][worker] = value
                    logged.present[name][worker] = True
            logged.states = _stacked(states)
        return logged


def _stacked(states: Mapping[int, States]) -> States:
    """Stack the states of n workers; those that have updated nothing get states that change none of the others'."""
    kinds = {kind: tensors for own in states.values() for kind, tensors in own.items()}
    return {
        kind: {
            name: torch.stack([own.get(kind, {}).get(name, neutral(kind, like)) for own in states.values()])
            for name, like in tensors.items()
        }
        for kind, tensors in kinds.items()
    }


class _Column:
    """The numbers of n workers under one name, as they come in."""

    def __init__(self, n: int, reduction: str) -> None:
        self.neutral, self.operation = _REDUCE[reduction]
        self.is_mean = reduction == "mean"
        self.total = np.full(n, self.neutral)
        self.weight = np.zeros(n)

    def add(self, rows: Rows, values: NDArray[np.float64], weight: float) -> None:
        at = rows if isinstance(rows, slice) else rows.numpy()
        self.total[at] = self.operation(self.total[at], values * weight if self.is_mean else values)
        self.weight[at] += weight

    def result(self) -> NDArray[np.float64]:
        return self.total / np.maximum(self.weight, 1) if self.is_mean else self.total


def _reduced(steps: list[_Step], n: int) -> Logged:
    """The losses, and the numbers that were logged, for all workers at once."""
    losses = _Column(n, "mean")
    columns: dict[str, _Column] = {}
    shown: dict[str, Shown] = {}
    found = [(step, losses, step.loss, step.batch_size if step.said is None else step.said) for step in steps]
    for step in steps:
        for event in step.events:
            if isinstance(event, _Call) and isinstance(event.value, int):
                column = columns.setdefault(event.shown.name, _Column(n, event.shown.reduction))
                shown[event.shown.name] = event.shown
                size = step.batch_size if event.batch_size is None else event.batch_size
                found.append((step, column, step.outputs[event.value], size))
    numbers = _doubles([tensor for _, _, tensor, _ in found])
    for (step, column, _, size), values in zip(found, numbers, strict=True):
        column.add(step.rows, values, size)
    return Logged(
        loss=losses.result(),
        values={name: column.result() for name, column in columns.items()},
        present={name: column.weight > 0 for name, column in columns.items()},
        shown={name: own for name, own in shown.items() if own != Shown(name)},
    )


def _doubles(tensors: Sequence[Tensor]) -> list[NDArray[np.float64]]:
    """Copy tensors of one dim to the CPU: all that are on one device at once, since an accelerator waits each time."""
    copied: dict[int, NDArray[np.float64]] = {}
    for device in {tensor.device for tensor in tensors}:
        there = [place for place, tensor in enumerate(tensors) if tensor.device == device]
        numbers = torch.cat([tensors[place] for place in there]).to(torch.float64).cpu().numpy()
        ends = np.cumsum([len(tensors[place]) for place in there])
        copied |= zip(there, np.split(numbers, ends[:-1]), strict=True)
    return [copied[place] for place in range(len(tensors))]


def _replayed(steps: list[_Step], worker: int, n: int) -> Recorder:
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
                recorder.take(event.shown, value, size)
            elif isinstance(event.value, Metric):
                recorder.take(event.shown, event.value)
    return recorder


def _position(rows: Rows, worker: int, n: int) -> int | None:
    """Return a worker's position among some rows, or None if it is not among them."""
    if isinstance(rows, slice):
        inside = range(n)[rows]
        return inside.index(worker) if worker in inside else None
    found = (rows == worker).nonzero().flatten().tolist()
    return found[0] if found else None
