"""The calls of ``self.log`` in local training: their valid arguments, and how the logged values are shown."""

from __future__ import annotations

import builtins
import numbers
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias, cast, final

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from lightning_fed._lightning import _FxValidator
from lightning_fed.wire.logged import REDUCTIONS, Shown

EPOCH_HOOKS = ("on_train_epoch_start", "on_train_epoch_end")
"""The hooks of a pass over a worker's data, in which there is no batch."""


Key: TypeAlias = "tuple[str, str]"
"""The hook that logs, and the name: Lightning keeps apart what two hooks log under one name."""


class _Call(NamedTuple):
    """The arguments of a call of ``log`` that are about showing, and how its value is shown according to them."""

    arguments: tuple[Any, ...]
    shown: Shown


class LogCalls(ABC):
    """Takes the place of ``self.log`` and ``self.log_dict`` on the workers' copy of the user's module.

    The arguments mean what they mean in Lightning, with a worker's local training in a round as the step, and the
    Trainer's epoch as the epoch. A value of its own is detached (``enable_graph``); a worker trains in one process
    (``sync_dist``, ``rank_zero_only``) and from one loader (``add_dataloader_idx``).
    """

    def __init__(self) -> None:
        self.hook = "training_step"
        """The user's hook that is running."""
        self.paths: Mapping[int, str | None] | None = None
        """The torchmetrics objects of the module, by identity: the path of each, if it has one; None: unknown."""
        self._calls: dict[Key, _Call] = {}

    @final
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
        """Take a value, and the arguments of ``LightningModule.log``.

        Raises:
            TypeError: If the value is no number, one-element tensor, torchmetrics object, or dict of those.
            ValueError: If the reduction is unknown, or a torchmetrics object is no part of the module.
            MisconfigurationException: Where Lightning refuses the hook or the arguments.
        """
        if not isinstance(value, Tensor) and isinstance(value, Mapping):  # isinstance with an abstract class is slow
            for key, item in value.items():
                self.log(
                    f"{name}.{key}",
                    item,
                    prog_bar,
                    logger,
                    on_step,
                    on_epoch,
                    reduce_fx,
                    batch_size=batch_size,
                    metric_attribute=metric_attribute,
                )
            return
        arguments = (prog_bar, logger, on_step, on_epoch, reduce_fx)
        key = (self.hook, name)
        call = self._calls.get(key)
        if call is None or call.arguments != arguments:
            call = self._registered(key, arguments, value, metric_attribute)
        self._take(key, call.shown, value, batch_size)

    @final
    def log_dict(self, dictionary: Mapping[str, Any] | MetricCollection, *places: Any, **options: Any) -> None:
        """Take several values, and the arguments of ``LightningModule.log_dict``."""
        items = (
            dictionary.items(keep_base=False, copy_state=False)
            if isinstance(dictionary, MetricCollection)
            else dictionary.items()
        )
        for name, value in items:
            self.log(str(name), value, *places, **options)

    @abstractmethod
    def _take(self, key: Key, shown: Shown, value: Any, batch_size: int | None) -> None:
        """Take a value.

        Args:
            key: Under which it is reduced with others.
            shown: How it is shown.
            value: The logged value.
            batch_size: The number of its examples; None: that of the batch.
        """

    @abstractmethod
    def _has_taken(self, key: Key) -> bool:
        """Whether there is a value under a key already."""

    def _registered(self, key: Key, arguments: tuple[Any, ...], value: Any, attribute: str | None) -> _Call:
        """Read a call's arguments, as Lightning does."""
        hook, name = key
        if key in self._calls and self._has_taken(key):
            raise ValueError(
                f"self.log({name!r}, ...) is called twice in {hook} with other arguments; give both the same, or two "
                "names"
            )
        prog_bar, logger, on_step, on_epoch, reduce_fx = arguments
        on_step, on_epoch = _FxValidator.check_logging_and_get_default_levels(hook, on_step, on_epoch)
        if not (on_step or on_epoch):
            raise ValueError(f"self.log({name!r}, on_step=False, on_epoch=False) shows nothing; set one of them")
        path = self._path_of(name, value, attribute) if isinstance(value, Metric) else None
        reduction = reduction_of(name, reduce_fx)
        shown = Shown(name, reduction, on_step, on_epoch, bool(prog_bar), logger is None or bool(logger), path)
        call = self._calls[key] = _Call(arguments, shown)
        return call

    def _path_of(self, name: str, metric: Metric, attribute: str | None) -> str | None:
        if self.paths is None or id(metric) in self.paths:
            return attribute if self.paths is None else self.paths[id(metric)]
        raise ValueError(
            f"the torchmetrics object that is logged as {name!r} is no part of the module, and the next worker would "
            "find it filled; make it an attribute of the module"
        )


def one_number(name: str, value: Any) -> float | Tensor:
    """Return a number that is logged, or a tensor of one element as it is: to read it may take its time.

    Args:
        name: Its name.
        value: The logged value.

    Raises:
        TypeError: If it is something else.
    """
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"self.log({name!r}, ...): a tensor must have one element, not the shape {value.shape}")
        return value
    if isinstance(value, numbers.Number):
        return float(cast(float, value))
    raise TypeError(f"self.log({name!r}, ...): cannot log a {type(value).__name__}")


def reduction_of(name: str, reduce_fx: Any) -> str:
    """The word for what ``self.log(..., reduce_fx=...)`` asks for.

    Raises:
        ValueError: If it is unknown.
    """
    if isinstance(reduce_fx, str):
        reduction = "mean" if reduce_fx.lower() == "avg" else reduce_fx.lower()
    else:
        reduction = next((word for word, functions in _FUNCTIONS.items() if reduce_fx in functions), "")
    if reduction not in REDUCTIONS:
        raise ValueError(
            f"self.log({name!r}, reduce_fx={reduce_fx!r}): use one of {', '.join(REDUCTIONS)}, or log a torchmetrics "
            "object, which reduces as it likes"
        )
    return reduction


_FUNCTIONS = {
    "mean": (torch.mean,),
    "sum": (torch.sum, builtins.sum),
    "min": (torch.min, torch.amin, builtins.min),
    "max": (torch.max, torch.amax, builtins.max),
}
