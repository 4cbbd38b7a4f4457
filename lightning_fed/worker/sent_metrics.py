"""States of torchmetrics objects that leave a worker: those that merge element by element.

The server's object then holds what the whole cohort's would.

States that are lists hold an entry per example (AUROC without thresholds, for one), and no example leaves a worker.
States of other kinds (means of means, a reduction of the user's own) are not those of the cohort's data once they are
merged. The objects that have some stay with their worker.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast, final

import torch
from torch import Tensor, nn
from torchmetrics import Metric, MetricCollection
from torchmetrics.utilities import dim_zero_max, dim_zero_min, dim_zero_sum

from lightning_fed.core.tree import Tensors
from lightning_fed.wire.metric_states import MERGE, States

UPDATES = "_update_count"
"""The state that counts an object's updates."""

_KINDS: dict[Any, str] = {dim_zero_sum: "sum", dim_zero_min: "min", dim_zero_max: "max"}


@final
class SentMetrics:
    """The torchmetrics objects of a module, and those of their states that leave a worker.

    Args:
        module: The workers' copy of the user's module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._collections = [part for part in module.modules() if isinstance(part, MetricCollection)]
        metrics = {path: part for path, part in module.named_modules() if isinstance(part, Metric)}
        self._kinds = {path: kinds for path, metric in metrics.items() if (kinds := _kinds_of(metric)) is not None}
        self._metrics = {path: metrics[path] for path in self._kinds}

    def states(self) -> States:
        """Copy the states of all objects that have been updated."""
        if not self._metrics:
            return {}
        for collection in self._collections:
            collection.items(copy_state=False)  # brings the members of a compute group up to date
        states: dict[str, Tensors] = {}
        for path, metric in self._metrics.items():
            if metric.update_count and self.leaves(path):
                states.setdefault("sum", {})[f"{path}.{UPDATES}"] = torch.tensor(metric.update_count)
                for name, kind in self._kinds[path].items():
                    states.setdefault(kind, {})[f"{path}.{name}"] = getattr(metric, name).detach().cpu().clone()
        return states

    def leaves(self, path: str) -> bool:
        """Whether the states of an object leave the worker: they can be merged, and are of the shape that all have.

        Args:
            path: Its path in the module.
        """
        metric = self._metrics.get(path)
        return metric is not None and all(
            getattr(metric, name).shape == _default(metric, name).shape for name in self._kinds[path]
        )


def difference(module: nn.Module, states: States) -> str | None:
    """Return in words why states cannot be those of a worker's objects; None: they can.

    Args:
        module: The server's module, with objects like the worker's.
        states: Those of one worker, ``[1, ...]`` each, which anyone may have sent.
    """
    metrics = {path: part for path, part in module.named_modules() if isinstance(part, Metric)}
    kinds = {path: kinds for path, metric in metrics.items() if (kinds := _kinds_of(metric)) is not None}
    known: dict[tuple[str, str], Tensor] = {("sum", f"{path}.{UPDATES}"): torch.tensor(0) for path in kinds}
    for path, of_metric in kinds.items():
        known |= {(kind, f"{path}.{name}"): _default(metrics[path], name) for name, kind in of_metric.items()}
    for kind, tensors in states.items():
        for name, tensor in tensors.items():
            default = known.get((kind, name))
            if default is None:
                return f"no torchmetrics object of {type(module).__name__} has a state {name[:100]!r} to {kind}"
            if tensor.shape[1:] != default.shape or tensor.is_complex() != default.is_complex():
                return f"its state {name!r} has the shape {list(tensor.shape[1:])}, not {list(default.shape)}"
            if name.endswith(f".{UPDATES}") and (tensor.is_floating_point() or int(tensor) < 0):
                return f"its state {name!r} is no number of updates"
    return None


def _default(metric: Metric, name: str) -> Tensor:
    """Return the value of a state that merges before the first update."""
    return cast(Tensor, metric._defaults[name])


def _kinds_of(metric: Metric) -> dict[str, str] | None:
    """Return the operation by which each state of an object merges; None: one of them does not merge."""
    kinds = {name: _KINDS.get(reduce) for name, reduce in metric._reductions.items()}
    merge = all(kind and isinstance(metric._defaults[name], Tensor) for name, kind in kinds.items())
    return {name: kind for name, kind in kinds.items() if kind} if merge else None


def take_in(metrics: Mapping[str, Metric], states: States) -> None:
    """Merge the cohort's states into the server's objects.

    Args:
        metrics: The server's objects, by their paths in the module.
        states: The cohort's.
    """
    for path, metric in metrics.items():
        count = states.get("sum", {}).get(f"{path}.{UPDATES}")
        if count is None:
            continue
        for kind, tensors in states.items():
            for name in metric._defaults:
                tensor = tensors.get(f"{path}.{name}")
                if tensor is not None and tensor.shape == _default(metric, name).shape:
                    tensor = tensor.to(metric.device)
                    own = getattr(metric, name)
                    merged = MERGE[kind](own.to(tensor.dtype), tensor) if metric.update_count else tensor
                    setattr(metric, name, merged.to(own.dtype))
        metric._update_count += int(count)
        metric._computed = None
