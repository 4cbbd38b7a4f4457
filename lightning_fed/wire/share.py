"""Share of one process, or of one worker on another machine, in an evaluation. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, final

from lightning_fed.wire.errors import WorkerError
from lightning_fed.wire.logged import Part


@final
class Options(NamedTuple):
    """Options with which a value is handed over.

    Args:
        shown: The arguments ``prog_bar`` and ``logger`` of ``self.log``, as far as they were given.
        forked: Whether each step has shown a value of its own.
        suffix: The end of its name that names the loader.
        loader: The number of that loader, if there are several.
    """

    shown: Mapping[str, Any]
    forked: bool = False
    suffix: str = ""
    loader: int | None = None

    @property
    def is_drawn(self) -> bool:
        """Whether loggers draw it."""
        return self.shown.get("logger") is not False


@final
class StepValue(NamedTuple):
    """Value that the last step has logged with ``on_step=True``.

    Args:
        value: The value.
        shown: See :class:`Options`.
    """

    value: float
    shown: Mapping[str, Any] = {}


@final
class LoggedShare(NamedTuple):
    """Values that one process hands over.

    Args:
        workers: Values by worker and name.
        pooled: The plain values over all of its workers, by name.
        objects: The path of each torchmetrics object, by its logged name.
        options: The options of each value, by name.
        examples: The number of examples of each worker, as far as batches have a size.
        steps: The values of the last step, by the name under which a step shows them.
    """

    workers: Mapping[str, Mapping[str, float]] = {}
    pooled: Mapping[str, Part] = {}
    objects: Mapping[str, str] = {}
    options: Mapping[str, Options] = {}
    examples: Mapping[str, int] = {}
    steps: Mapping[str, StepValue] = {}


@final
class MetricState(NamedTuple):
    """State of a torchmetrics object.

    Args:
        updates: The number of its updates.
        states: Its states by name: tensors of any shape, and lists of them.
    """

    updates: int
    states: Mapping[str, Any]


@final
class Share(NamedTuple):
    """Share of one process in the end of an evaluation.

    Args:
        logged: The logged values.
        failures: Those of its workers that failed.
        states: The states of its updated torchmetrics objects, by path.
        loaders: The number of loaders of its workers, if it was requested.
        batches: The number of batches in each worker's steps, as far as it was counted.
        filled: The paths of the module's lists and dicts that its steps have filled, and that a hook at the end of an
            epoch may read.
    """

    logged: LoggedShare = LoggedShare()
    failures: tuple[WorkerError, ...] = ()
    states: Mapping[str, MetricState] = {}
    loaders: int | None = None
    batches: Mapping[str, int] = {}
    filled: tuple[str, ...] = ()
