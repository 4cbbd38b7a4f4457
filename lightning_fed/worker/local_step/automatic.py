"""Base of the steps in which a Trainer calls hooks: those of automatic optimization."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step.base import Changes, LocalStep, TrainingStep
from lightning_fed.worker.module_copy import ModuleCopy


class AutomaticStep(LocalStep, ABC):
    """A step with Lightning's hooks around it, in a Trainer's order.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizers: The worker's optimizer, as new.
        changes: Changes of gradients, before hooks get them.
    """

    def __init__(
        self, local: ModuleCopy, training_step: TrainingStep, optimizers: LocalOptimizers, changes: Changes
    ) -> None:
        super().__init__(local, training_step, optimizers)
        self._changes = changes
        self._optimizer = local.trainer.optimizers[0]
        self._seen = optimizers.wrapped(self._optimizer)

    def _step_by_hook(self, index: int, closure: Callable[[], Any], default: Callable[[], Any] | None = None) -> None:
        """Let the user's own ``optimizer_step`` take the step."""
        epoch = self._local.module.current_epoch
        self._local.call("optimizer_step", epoch, index, self._seen, closure, default=default)

    def _backward(self, loss: Tensor, scaler: torch.amp.GradScaler | None = None) -> None:
        """Compute gradients.

        Args:
            loss: The loss.
            scaler: Scales it, once hooks have seen it.
        """
        call = self._local.call
        call("on_before_backward", loss)
        scaled = loss if scaler is None else scaler.scale(loss)
        call("backward", scaled, default=scaled.backward)
        call("on_after_backward")

    def _change_gradients(self) -> None:
        """Do what comes between the backward pass and the optimizer."""
        call, optimizer = self._local.call, self._optimizer
        for change in self._changes:
            change()
        call("on_before_optimizer_step", optimizer)
        call("configure_gradient_clipping", optimizer, None, None)
