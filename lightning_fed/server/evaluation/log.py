"""Values that the user's steps log in an evaluation: noted batch by batch, and handed to the Trainer at the end."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from functools import partial
from typing import Any, final

import torch
from torchmetrics import Metric

from lightning_fed._lightning import pl
from lightning_fed.server.loaders import EvaluationBatch
from lightning_fed.server.processes import processes_of
from lightning_fed.wire.logged import merged
from lightning_fed.wire.share import LoggedShare, Options, StepValue
from lightning_fed.worker.metric_shares import WorkerMetrics
from lightning_fed.worker.metric_states import metrics_of


@final
class EvaluationLog:
    """Notes what is logged about each batch, and hands it over, the same on every process.

    Args:
        server: The FederatedModule, whose ``log`` reaches the Trainer.
        module: The user's module.
        failed: The workers that do not count.
    """

    def __init__(self, server: pl.LightningModule, module: pl.LightningModule, failed: Container[str | None]) -> None:
        self._server = server
        self._module = module
        self._metrics = WorkerMetrics(module, failed)
        self.clear()

    def clear(self) -> None:
        """Clear all values, for the next evaluation."""
        self._options: dict[str, Options] = {}
        self._steps: dict[str, tuple[Any, dict[str, Any]]] = {}  # what the last step has logged about itself
        self._loaders: dict[int, int | None] = {}  # by the identity of a torchmetrics object: which one it is about
        self._metrics.clear()

    def turn_to(self, batch: EvaluationBatch, size: Callable[[], int]) -> None:
        """Note that what is logged from now on is about a batch.

        Args:
            batch: The batch.
            size: Returns its number of examples.
        """
        self._metrics.turn_to(batch.worker, size, batch.loader)

    def log(self, batch: EvaluationBatch, name: str, value: Any, **options: Any) -> None:
        """Take the place of the user's ``self.log``.

        Args:
            batch: The batch that it is called about.
            name: See ``LightningModule.log``.
            value: See there.
            options: See there.

        Raises:
            ValueError: If one name, or one torchmetrics object, is logged about several loaders.
        """
        if batch.worker is None and processes_of(self._server.trainer).size == 1:
            self._server.log(name, value, **options)
            return
        shown: dict[str, Any] = {option: options[option] for option in ("prog_bar", "logger") if option in options}
        on_step, on_epoch = options.get("on_step"), options.get("on_epoch") is not False
        adds_index = options.get("add_dataloader_idx", True)
        if on_step:
            # One value is no mean, so no size is looked for.
            at_once = {**shown, "on_step": True, "on_epoch": False, "batch_size": 1, "add_dataloader_idx": adds_index}
            own = f"{name}_step" if on_epoch else name
            self._server.log(own, value, **at_once)
            self._steps[own + self._suffix(batch, adds_index)] = value, shown
        if on_epoch:
            suffix = self._suffix(batch, adds_index)
            name += suffix
            if name in self._options and self._options[name].loader != batch.loader:
                raise ValueError(
                    f"self.log({name!r}, add_dataloader_idx=False) is called about several loaders; give each a name"
                )
            if isinstance(value, Metric) and self._loaders.setdefault(id(value), batch.loader) != batch.loader:
                raise ValueError(
                    f"one torchmetrics object is logged as {name!r} and about another loader, and its value would be "
                    "about both; use an object for each loader"
                )
            self._options[name] = Options(shown, bool(on_step), suffix, batch.loader)
            self._metrics.note(name, value, options)

    @staticmethod
    def _suffix(batch: EvaluationBatch, adds_index: bool) -> str:
        return f"/dataloader_idx_{batch.loader}" if adds_index and batch.loader is not None else ""

    def show_step(self, steps: Mapping[str, StepValue]) -> None:
        """Show values that steps elsewhere have logged about themselves.

        Args:
            steps: The values of the last step there, by name.
        """
        for name, step in steps.items():
            about: dict[str, Any] = {"on_step": True, "on_epoch": False, "batch_size": 1, "add_dataloader_idx": False}
            self._server.log(name, torch.tensor(step.value, dtype=torch.get_default_dtype()), **step.shown, **about)

    def count(self, batch: Any) -> None:
        """Note that the user's step has run on a batch of the worker at hand, if there is one.

        Args:
            batch: The batch.
        """
        self._metrics.count(batch)

    def share(self) -> LoggedShare:
        """End the last worker's batches, and return what this process has noted.

        Raises:
            ValueError: If a torchmetrics object was logged that is no part of the module.
        """
        metrics = self._metrics
        metrics.close()
        metrics.merge()
        values = {name: (_number(value), shown) for name, (value, shown) in self._steps.items()}
        steps = {name: StepValue(value, shown) for name, (value, shown) in values.items() if value is not None}
        return LoggedShare(metrics.workers, metrics.pooled, metrics.objects, self._options, metrics.examples, steps)

    def hand_over(self, shares: Sequence[LoggedShare], step: str) -> Mapping[str, Options]:
        """Hand to the Trainer what all processes have noted.

        Args:
            shares: Those of the processes, in order of rank.
            step: The name of the user's step, under which Lightning has it logged.

        Returns:
            How each value was handed over, by name.
        """
        options = {name: option for share in shares for name, option in share.options.items()}
        values: dict[str, Any] = {
            name: torch.tensor(part.value, dtype=torch.get_default_dtype(), device=self._server.device)
            for name, part in merged([share.pooled for share in shares]).items()
        }
        objects = metrics_of(self._module)
        values |= {name: objects[path] for share in shares for name, path in share.objects.items()}
        outer = self._server._current_fx_name
        self._server._current_fx_name = step
        try:
            for name, value in values.items():
                self._hand_over(name, value, options.get(name, Options({})))
        finally:
            self._server._current_fx_name = outer
        return options

    def _hand_over(self, name: str, value: Any, options: Options) -> None:
        # Equal on all processes: nothing is left to be synchronised, which Lightning would otherwise recommend.
        log = partial(
            self._server.log,
            on_epoch=True,
            add_dataloader_idx=False,
            batch_size=1,
            sync_dist=not isinstance(value, Metric),
            rank_zero_only=True,
        )
        shown = options.shown
        if options.forked:
            log(f"{name.removesuffix(options.suffix)}_epoch{options.suffix}", value, **shown)
            shown = {**shown, "logger": False, "prog_bar": False}
        log(name, value, **shown)


def _number(value: Any) -> float | None:
    """Return the number that a step has logged; None: there is none, as of an object that was only updated."""
    if isinstance(value, Metric):
        value = value._forward_cache
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError, RuntimeError):
        return None


def drawn_name(metric: str, drawn: Container[str]) -> str | None:
    """Return the name under which the value of a metric over all data is drawn.

    Args:
        metric: Its name for callbacks.
        drawn: The names of all that loggers draw.

    Returns:
        The name itself, or that of an epoch where each step has drawn a value of its own; None: it was logged with
        ``logger=False``.

    >>> drawn_name("val_acc/dataloader_idx_1", ["val_acc_epoch/dataloader_idx_1"])
    'val_acc_epoch/dataloader_idx_1'
    """
    if metric in drawn:
        return metric
    base, mark, loader = metric.partition("/dataloader_idx_")
    forked = f"{base}_epoch{mark}{loader}"
    return forked if forked in drawn else None
