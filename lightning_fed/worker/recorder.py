"""Recorder of what a worker logs during local training."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_fed._lightning import MisconfigurationException, extract_batch_size
from lightning_fed.wire.logged import Part, Shown
from lightning_fed.wire.share import MetricState
from lightning_fed.worker.log_calls import EPOCH_HOOKS, Key, LogCalls, one_number
from lightning_fed.worker.metric_states import merged_state, merges, put_state, state_of


@final
class Recorder(LogCalls):
    """Takes the place of ``self.log`` and ``self.log_dict`` on a worker's copy of the user's module.

    A value logged several times is reduced by its ``reduce_fx``; means are weighted by batch sizes. A torchmetrics
    object begins each pass empty, as in Lightning each epoch, and is computed at the end of local training, over all
    passes; one whose states do not merge goes on from pass to pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self._values: dict[Key, list[tuple[float | Tensor, int]]] = {}
        self._metrics: dict[Key, Metric] = {}
        # By identity, as the hash of an object changes with its state: what it held at the ends of the passes before.
        self._earlier: dict[int, tuple[Metric, list[MetricState]]] = {}
        self._shown: dict[Key, Shown] = {}
        self._names: dict[Key, str] = {}  # the user's own; of what another hook logs under it, one more
        self._lengths: dict[Key, int] = {}  # of the values, at the beginning of the pass
        self.pass_is_over = False
        """Whether what is logged in a pass over the data can be reduced."""
        self.batch_size: Callable[[], int] = _one
        """Returns the number of examples in the batch at hand, where it has to be inferred."""
        self._known_size: int | None = None  # of the batch at hand
        self.said: set[int] = set()
        """The sizes that the user's code has given since this was cleared."""

    def clear(self) -> None:
        """Forget everything that was logged."""
        self._values.clear()
        self._metrics.clear()
        self._earlier.clear()
        self._shown.clear()
        self._names.clear()
        self._lengths.clear()
        self.pass_is_over = False
        self.batch_size, self._known_size = _one, None

    def begin_batch(self, batch: Any, size: int | None) -> None:
        """Note the batch that logged values are about from now on.

        Args:
            batch: The batch.
            size: Its number of examples; None: it is inferred as Lightning does, if a value needs it.
        """
        self._known_size = size
        if size is None:
            self.batch_size = partial(extract_batch_size, batch)
        self.said.clear()

    def begin_pass(self) -> None:
        """Begin a pass over the worker's data, of which :meth:`value_of` returns values."""
        self._lengths = {key: len(values) for key, values in self._values.items()}
        self.pass_is_over = False
        if not self._metrics:
            return
        for metric in {id(metric): metric for metric in self._metrics.values()}.values():
            if merges(metric):
                self._earlier.setdefault(id(metric), (metric, []))[1].append(state_of(metric))
                metric.reset()

    def end_passes(self) -> None:
        """Merge into each torchmetrics object what it held in the passes before."""
        for metric, earlier in self._earlier.values():
            put_state(metric, merged_state(metric, [*earlier, state_of(metric)]))
        self._earlier.clear()

    def take(self, shown: Shown, value: Any, batch_size: int | None = None) -> None:
        """Take a value of ``training_step`` whose arguments have been read.

        Args:
            shown: How it is shown.
            value: The logged value.
            batch_size: The number of its examples; None: that of the batch.
        """
        self._take(("training_step", shown.name), shown, value, batch_size)

    def _take(self, key: Key, shown: Shown, value: Any, batch_size: int | None) -> None:
        if batch_size is not None:
            self.said.add(batch_size)
        if not isinstance(value, Tensor) and isinstance(value, Metric):  # isinstance with an abstract class is slow
            self._metrics[key] = value
        else:
            number = one_number(shown.name, value)
            if isinstance(number, Tensor):  # reading one from an accelerator would make it wait at every step
                number = number.detach().reshape(()) if number.is_cuda else number.item()
            if batch_size is None:  # only a mean requires it, and not every batch has it
                batch_size = self._size(shown) if shown.reduction == "mean" else 1
            values = self._values.get(key)
            if values is None:
                values = self._values[key] = []
            values.append((number, batch_size))
        self._shown[key] = shown
        if key not in self._names:
            self._names[key] = ".".join(key) if key[1] in self._names.values() else key[1]

    def _has_taken(self, key: Key) -> bool:
        return key in self._shown

    def _size(self, shown: Shown) -> int:
        """The weight of a value: its batch's number of examples; 1 if unknown and the value has no epoch's mean."""
        if self.hook in EPOCH_HOOKS:
            return 1
        if self._known_size is not None:
            return self._known_size
        if shown.on_epoch:
            return self.batch_size()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return self.batch_size()
            except MisconfigurationException:
                return 1

    def current(self) -> dict[str, Tensor]:
        """Return all that was logged in this pass, under the names that a Trainer's ``callback_metrics`` has."""
        values = {
            name: self.value_of(name, self.pass_is_over)
            for shown in self._shown.values()
            for name in (shown.name, shown.step_name, shown.epoch_name)
        }
        return {name: torch.tensor(value) for name, value in values.items() if value is not None}

    def value_of(self, name: str, at_end: bool) -> float | None:
        """Return what was logged in this pass, as a Trainer's callbacks find it where a pass is an epoch.

        Args:
            name: The name, also with ``_step`` or ``_epoch`` where Lightning forks it.
            at_end: Whether the pass is over, so that what was logged with ``on_epoch`` is reduced; else there are only
                values of the last step.

        Returns:
            The value; None: there is none.
        """
        for key, shown in self._shown.items():
            forked = shown.on_step and shown.on_epoch
            if name not in ((shown.name, shown.step_name, shown.epoch_name) if forked else (shown.name,)):
                continue
            is_reduced = shown.on_epoch and name != shown.step_name
            if forked and name == shown.name:
                is_reduced = at_end
            if is_reduced and not at_end:
                continue
            if key in self._metrics:
                metric = self._metrics[key]
                value = metric.compute() if is_reduced else metric._forward_cache  # as Lightning takes the last step's
                return None if value is None else float(torch.as_tensor(value).detach())
            pairs = self._values[key][self._lengths.get(key, 0) :]
            if pairs and is_reduced:
                values, sizes = zip(*pairs, strict=True)
                return Part.of(shown.reduction, floats(values), sizes).value
            if pairs:
                return float(pairs[-1][0])
        return None

    def results(self) -> dict[str, float]:
        """Reduce everything that was logged to one number per name."""
        metrics = {self._names[key]: float(metric.compute()) for key, metric in self._metrics.items()}
        return {name: part.value for name, part in self.parts().items()} | metrics

    def shown(self) -> dict[str, Shown]:
        """Return how it is to be shown, by the same names, where that is not ``Shown(name)``."""
        named = ((self._names[key], shown) for key, shown in self._shown.items())
        return {name: shown for name, shown in named if shown != (name, *_AS_BY_DEFAULT)}

    def parts(self) -> dict[str, Part]:
        """Reduce every value that was logged, with the weights needed to reduce it further with others of its name."""
        return {
            self._names[key]: Part.of(
                self._shown[key].reduction, floats([v for v, _ in pairs]), [size for _, size in pairs]
            )
            for key, pairs in self._values.items()
        }


_AS_BY_DEFAULT = Shown("")[1:]


def _one() -> int:
    return 1


def floats(values: Sequence[float | Tensor]) -> list[float]:
    """Convert numbers and one-element tensors to floats; those on an accelerator are copied at once."""
    tensors = [value for value in values if isinstance(value, Tensor) and value.is_cuda]
    if not tensors or len(tensors) < len(values):
        return [float(value) for value in values]
    numbers: list[float] = torch.stack(tensors).tolist()
    return numbers
