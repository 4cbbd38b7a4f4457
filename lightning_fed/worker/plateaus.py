"""ReduceLROnPlateau in local training: by what the worker logs, or by what the server's validation does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.hooks import overrides
from lightning_fed.worker.trainer_view import TrainerView


@final
class Plateaus:
    """Steps a worker's schedulers that go by a metric, as a Trainer does after each epoch or step.

    In a Trainer's epoch validation comes before that step. A worker's round is over by then; so where its schedulers go
    on from round to round, the step that a validation decides is taken when the worker's next round begins.

    Args:
        module: The workers' copy of the user's module.
        trainer: The worker's view of the Trainer, with the schedulers.
        step: Steps one of them, given its configuration and the metric's value.
    """

    def __init__(self, module: pl.LightningModule, trainer: TrainerView, step: Callable[[Any, Tensor], None]) -> None:
        self._module = module
        self._trainer = trainer
        self._step = step
        self._goes_on = False
        self._validated: Mapping[str, float] = {}
        self._epoch = 0
        self._has_warned = False

    def __bool__(self) -> bool:
        """Whether there are such schedulers; in manual optimization user code steps them."""
        return bool(self._module.automatic_optimization and self._configs())

    def _configs(self) -> Sequence[Any]:
        return [config for config in self._trainer.lr_scheduler_configs if config.reduce_on_plateau]

    def go_on(self, validated: Mapping[str, float], epoch: int, last: int | None) -> None:
        """Step the schedulers that go by epochs and by what validation logs, before a round: once in a server's epoch.

        Args:
            validated: The values that the last validation at the server has logged, by name.
            epoch: The server's epoch.
            last: The server's epoch in the worker's last round; None: there is none.
        """
        self._goes_on, self._validated, self._epoch = True, validated, epoch
        if last is None or not self:
            return
        for config in self._configs():
            is_due = epoch // config.frequency > last // config.frequency
            if config.interval == "epoch" and is_due and config.monitor in validated:
                self._step(config, torch.tensor(validated[config.monitor]))

    def step(self, interval: str, count: int, value_of: Callable[[str, bool], float | None]) -> None:
        """Step the schedulers that go by this interval, after the hooks that may log their metric.

        Args:
            interval: ``"step"`` or ``"epoch"``.
            count: How many steps the worker has taken in this epoch, or how many epochs it has trained.
            value_of: Returns what the worker has logged under a name, reduced at the end of an epoch; None: nothing.

        Raises:
            ValueError: If it has logged nothing, the scheduler is strict about that, and no validation could log it, or
                none did.
        """
        for config in self._configs():
            if config.interval != interval or count % config.frequency:
                continue
            if self._goes_on and interval == "epoch" and config.monitor in self._validated:
                continue  # the next validation decides
            value = value_of(str(config.monitor), interval == "epoch")
            if value is None:
                self._hold(config)
            else:
                self._step(config, torch.tensor(value))

    def _hold(self, config: Any) -> None:
        """Warn why a rate is held, or refuse to hold it."""
        may_come = overrides(self._module, "validation_step")
        if config.strict and not may_come:
            raise ValueError(self._not_logged(config.monitor, "set 'strict': False beside it to hold the rate"))
        if not self._goes_on or config.interval != "epoch":
            remedy = "the rate is held there: to have it fall"
            if may_come:
                remedy += ", take local_schedule='continue' and interval 'epoch', which follow the server's validation"
        elif self._validated and config.strict:
            logged = ", ".join(map(repr, self._validated))
            raise ValueError(
                self._not_logged(config.monitor, f"nor does the server's validation: monitor what that logs ({logged})")
            )
        elif not self._validated and not self._epoch:
            return  # the first validation may come after this round
        else:
            remedy = "nor has the server's validation so far: the rate is held there; to have it fall, log it in that"
        if not self._has_warned:
            self._has_warned = True
            rank_zero_warn(self._not_logged(config.monitor, remedy))

    def _not_logged(self, monitor: str | None, remedy: str) -> str:
        return (
            f"{type(self._module).__name__}.configure_optimizers() returned a ReduceLROnPlateau on {monitor!r}, which "
            f"workers do not log in their training (validation comes after a round); {remedy}, monitor what "
            "training_step logs, or use it as server_lr_scheduler"
        )
