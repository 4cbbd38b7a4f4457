"""Shows what is logged in training where Lightning shows it: after a round as after a step, and at an epoch's end."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import reduce
from typing import Any, final

from lightning_fed._lightning import pl
from lightning_fed.server.checkpoint import Keeper
from lightning_fed.server.loaders import Cohort
from lightning_fed.server.logs import Curves
from lightning_fed.server.own_callbacks import put_first, take_out
from lightning_fed.server.round_result import Round
from lightning_fed.wire.metric_states import States, merged_states
from lightning_fed.worker.metric_states import metrics_of
from lightning_fed.worker.sent_metrics import take_in

_BEFORE_BATCH_SIZE = list(inspect.signature(pl.LightningModule.log).parameters).index("batch_size") - 3
"""The number of arguments of ``log`` between the value and the batch size."""


@final
class TrainingLog(pl.Callback):
    """Takes part in a fit as the first of its callbacks, so that the others find the values of an epoch at its end.

    Args:
        keeper: Keeps the values of the rounds that are over.
    """

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.batch_size: int | None = None
        """The weight of what callbacks log about the round at hand: its number of examples, before it is run that of
        its workers; None: there is none at hand."""

    def set_up(self, trainer: pl.Trainer) -> None:
        """Take part in a fit."""
        self.batch_size = None
        put_first(trainer, self)

    def tear_down(self, trainer: pl.Trainer) -> None:
        """Take part no more."""
        take_out(trainer, TrainingLog)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, *_: int) -> None:
        """Note the cohort."""
        self.batch_size = max(1, len(batch.workers)) if isinstance(batch, Cohort) else None

    def sized(self, options: dict[str, Any], arguments: Sequence[Any], evaluated: int | None = None) -> dict[str, Any]:
        """Return the options of a call of ``log`` with the weight of the round at hand, if none is given.

        Lightning would look for it in the cohort, or in what stands for a worker's batches that are elsewhere.

        Args:
            options: As they were given by name.
            arguments: Those that were given by place.
            evaluated: The number of examples of the workers elsewhere that are at hand in an evaluation.
        """
        size = self.batch_size if evaluated is None else evaluated
        if size is None or options.get("batch_size") is not None or len(arguments) > _BEFORE_BATCH_SIZE:
            return options
        return {**options, "batch_size": size}

    @staticmethod
    def take_in(module: pl.LightningModule, rounds: Sequence[Round]) -> None:
        """Merge the cohort's torchmetrics objects into those of the user's module, in one of several processes.

        Args:
            module: The user's module.
            rounds: The rounds that are over.
        """
        states: States = reduce(merged_states, [r.report.metric_states for r in rounds], {})
        if states and module.trainer.is_global_zero:  # an object is merged over processes when it is computed
            take_in(metrics_of(module), states)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the values of the epoch."""
        values = self._keeper.state.logged
        if values.epoch == trainer.current_epoch:
            Curves(trainer).show_epoch(values.values, trainer.global_step - 1)

    def end_epoch(self, module: pl.LightningModule) -> None:
        """Empty the torchmetrics objects that were logged, as Lightning does.

        Args:
            module: The user's module.
        """
        paths = {logged.shown.metric for logged in self._keeper.state.logged.values.values()} - {None}
        if paths:
            for path, metric in metrics_of(module).items():
                if path in paths:
                    metric.reset()
