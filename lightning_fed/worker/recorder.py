"""What a worker logs during local training."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast, final

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_fed.core.means import weighted_mean

_REDUCTIONS: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "mean": weighted_mean,
    "sum": lambda values, _: sum(values),
    "min": lambda values, _: min(values),
    "max": lambda values, _: max(values),
}


@final
class Part(NamedTuple):
    """A part of what was logged under one name, to be reduced with other parts.

    Args:
        reduction: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.
        value: Its own values, reduced.
        weight: The sum of their weights, which only a mean asks for.
    """

    reduction: str
    value: float
    weight: float

    def merged(self, other: Part) -> Part:
        """Reduce two parts; the first one's reduction counts."""
        if self.reduction == "mean" and not (self.weight and other.weight):  # the mean of nothing is NaN
            return self if self.weight else other
        weights = [self.weight, other.weight]
        return Part(self.reduction, _REDUCTIONS[self.reduction]([self.value, other.value], weights), sum(weights))


@final
class Recorder:
    """Takes the place of ``self.log`` and ``self.log_dict`` on a worker's copy of the user's module.

    A value logged several times is reduced as its ``reduce_fx`` says; means are weighted by batch sizes. A torchmetrics
    object is computed once, at the end of local training.
    """

    def __init__(self) -> None:
        self._values: dict[str, list[tuple[float | Tensor, int]]] = {}
        self._reduce: dict[str, str] = {}
        self._metrics: dict[str, Metric] = {}
        self.batch_size: Callable[[], int] = _one
        self.said: set[int] = set()
        """The sizes that the user's code has given since this was cleared."""

    def clear(self) -> None:
        """Forget everything that was logged."""
        self._values.clear()
        self._reduce.clear()
        self._metrics.clear()

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
        """Record a value; takes the arguments of ``LightningModule.log``.

        Where a value goes (``prog_bar``, ``logger``), when (``on_step``, ``on_epoch``) and how it is synchronised is
        the server's business, so those arguments are ignored.

        Raises:
            TypeError: If the value is no number, one-element tensor, torchmetrics object, or dict of those.
            ValueError: If the reduction is unknown.
        """
        if batch_size is not None:
            self.said.add(batch_size)
        if isinstance(value, Tensor):
            self._record(name, value, reduce_fx, batch_size)
        elif isinstance(value, Metric):
            self._metrics[name] = value
        elif isinstance(value, Mapping):
            for key, item in value.items():
                self.log(f"{name}.{key}", item, reduce_fx=reduce_fx, batch_size=batch_size)
        else:
            self._record(name, value, reduce_fx, batch_size)

    def _record(self, name: str, value: Any, reduce_fx: Any, batch_size: int | None) -> None:
        reduction = self._reduce[name] = reduction_of(name, reduce_fx)
        if batch_size is None:  # only a mean asks for it, and not every batch can tell
            batch_size = self.batch_size() if reduction == "mean" else 1
        self._values.setdefault(name, []).append((_number(name, value), batch_size))

    def log_dict(self, dictionary: Mapping[str, Any] | MetricCollection, *places: Any, **options: Any) -> None:
        """Record several values; takes the arguments of ``LightningModule.log_dict``."""
        items = (
            dictionary.items(keep_base=False, copy_state=False)
            if isinstance(dictionary, MetricCollection)
            else dictionary.items()
        )
        for name, value in items:
            self.log(str(name), value, *places, **options)

    def results(self) -> dict[str, float]:
        """Reduce everything that was logged to one number per name."""
        reduced = {name: part.value for name, part in self.parts().items()}
        return reduced | {name: float(metric.compute()) for name, metric in self._metrics.items()}

    def parts(self) -> dict[str, Part]:
        """Reduce every value that was logged, and keep what it takes to reduce it with others of its name."""
        parts: dict[str, Part] = {}
        for name, pairs in self._values.items():
            reduction, weights = self._reduce[name], [weight for _, weight in pairs]
            value = _REDUCTIONS[reduction](floats([value for value, _ in pairs]), weights)
            parts[name] = Part(reduction, value, sum(weights))
        return parts


def _one() -> int:
    return 1


def floats(values: Sequence[float | Tensor]) -> list[float]:
    """Plain numbers of numbers and one-element tensors; those on an accelerator cross in one copy."""
    tensors = [value for value in values if isinstance(value, Tensor) and value.is_cuda]
    if not tensors or len(tensors) < len(values):
        return [float(value) for value in values]
    numbers: list[float] = torch.stack(tensors).tolist()
    return numbers


def _number(name: str, value: Any) -> float | Tensor:
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"self.log({name!r}, ...): a tensor must have one element, not the shape {value.shape}")
        # Reading a number from an accelerator would make it wait at every step.
        return value.detach().reshape(()) if value.is_cuda else value.item()
    if isinstance(value, numbers.Number):
        return float(cast(float, value))
    raise TypeError(f"self.log({name!r}, ...): cannot log a {type(value).__name__}")


def reduction_of(name: str, reduce_fx: Any) -> str:
    """The word for what ``self.log(..., reduce_fx=...)`` asks for.

    Raises:
        ValueError: If it is unknown.
    """
    if reduce_fx == "mean":
        return "mean"
    reduction = getattr(reduce_fx, "__name__", reduce_fx)
    reduction = {"amin": "min", "amax": "max", "avg": "mean"}.get(reduction, reduction)
    if reduction not in _REDUCTIONS:
        raise ValueError(
            f"self.log({name!r}, reduce_fx={reduce_fx!r}): in local training use one of {', '.join(_REDUCTIONS)}"
        )
    return str(reduction)
