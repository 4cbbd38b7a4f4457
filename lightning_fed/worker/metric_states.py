"""States of torchmetrics objects: kept aside, put back, and merged over processes.

torchmetrics' own way to merge, inside of ``compute()``, waits for the other processes to compute the same object. In an
evaluation of workers that may never happen: some of them log other things than others, or nothing at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_cat, dim_zero_max, dim_zero_min, dim_zero_sum

from lightning_fed.wire.share import MetricState

_SYNC = ("sync_on_compute", "dist_sync_on_step", "_to_sync")


def state_of(metric: Metric) -> MetricState:
    """Copy the state of an object."""
    states = {name: getattr(metric, name) for name in metric._defaults}
    return MetricState(
        metric.update_count,
        {name: list(s) if isinstance(s, list) else s.detach().clone() for name, s in states.items()},
    )


def empty_state(metric: Metric) -> MetricState:
    """Return the state of an object that was never updated."""
    device = metric.device
    defaults = metric._defaults.items()
    return MetricState(0, {name: [] if isinstance(d, list) else d.detach().clone().to(device) for name, d in defaults})


def put_state(metric: Metric, state: MetricState) -> None:
    """Put a state into an object."""
    for name, value in state.states.items():
        setattr(metric, name, list(value) if isinstance(value, list) else value.clone())
    metric._update_count = state.updates
    metric._computed = None


def state_on(state: MetricState, device: torch.device) -> MetricState:
    """Return a state on a device."""
    return MetricState(state.updates, {name: _on(value, device) for name, value in state.states.items()})


def merged_state(metric: Metric, parts: Sequence[MetricState]) -> MetricState:
    """Merge states as torchmetrics does, but without those that were never updated.

    Args:
        metric: An object with such states, which defines how each is reduced.
        parts: Those of the processes, in order of rank.
    """
    parts = [part for part in parts if part.updates]
    if len(parts) < 2:
        return parts[0] if parts else state_of(metric)
    states: dict[str, Any] = {}
    for name, reduce in metric._reductions.items():
        values, default = [part.states[name] for part in parts], cast(Any, metric._defaults[name])
        is_list = isinstance(default, list)
        joined: Any = [item for value in values for item in value] if is_list else _stacked(values, default)
        states[name] = reduce(joined) if callable(reduce) and len(joined) else joined
        if is_list and isinstance(states[name], Tensor):
            states[name] = [states[name]]
    return MetricState(sum(part.updates for part in parts), states)


def merges(metric: Metric) -> bool:
    """Whether an object that has seen two sets of data holds what two objects do together that have seen one each."""
    is_made_of_others = any(isinstance(part, Metric) for part in metric.children())
    return bool(metric._defaults) and not is_made_of_others and set(metric._reductions.values()) <= _MERGING


_MERGING = {dim_zero_sum, dim_zero_cat, dim_zero_min, dim_zero_max}


def metrics_of(module: nn.Module) -> dict[str, Metric]:
    """Return all torchmetrics objects in a module by path; members of a compute group are brought up to date."""
    for part in module.modules():
        if isinstance(part, MetricCollection):
            part.items(copy_state=False)
    return {path: part for path, part in module.named_modules() if isinstance(part, Metric)}


@final
class NoSync:
    """Keeps torchmetrics objects from waiting for other processes, for a while.

    Args:
        metrics: The objects.
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._before = [(metric, {name: getattr(metric, name) for name in _SYNC}) for metric in metrics]
        for metric in metrics:
            for name in _SYNC:
                setattr(metric, name, False)

    def end(self) -> None:
        """Make the objects what they were."""
        for metric, settings in self._before:
            for name, value in settings.items():
                setattr(metric, name, value)


def _stacked(values: Sequence[Tensor], default: Tensor) -> Tensor:
    """Stack states; one of a single number may have lost its dimension (``PearsonCorrCoef`` of torchmetrics 1.3)."""
    shape, n = default.shape, default.numel()
    return torch.stack([value.reshape(shape) if value.numel() == n else value for value in values])


def _on(state: Any, device: torch.device) -> Any:
    if isinstance(state, Tensor):
        return state.to(device)
    return type(state)(_on(item, device) for item in state) if isinstance(state, (list, tuple)) else state
