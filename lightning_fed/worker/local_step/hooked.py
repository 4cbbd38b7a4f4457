"""The step of a module with hooks of its own around it, as a Trainer takes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step.automatic import AutomaticStep
from lightning_fed.worker.local_step.base import Changes, TrainingStep
from lightning_fed.worker.module_copy import ModuleCopy, loss_of


@final
class HookedStep(AutomaticStep):
    """A step with all of Lightning's hooks in a Trainer's order, optimizers that need a closure, and loss scaling.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizers: The worker's optimizer, as new.
        changes: Changes of gradients, before hooks get them.
        scaler: Scales the loss, so that gradients in half precision do not underflow.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizers: LocalOptimizers,
        changes: Changes,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        super().__init__(local, training_step, optimizers, changes)
        self._scaler = scaler
        self._default_step: Any = self._optimizer.step
        if scaler is not None:
            optimizers.take = partial(self._take_scaled, scaler)  # where user code steps in its own optimizer_step
            self._default_step = partial(optimizers.take, self._optimizer)
        self._steps_by_closure = optimizers.needs_closure or scaler is not None or "optimizer_step" in local.hooks

    def __call__(self, batch: Any, index: int) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        closure = partial(self._closure, batch, index, outputs)
        if self._steps_by_closure:
            self._step_by_hook(index, closure, partial(self._default_step, closure))
        elif closure() is not None:
            self._optimizers.step()
        return outputs

    def _closure(self, batch: Any, index: int, outputs: dict[str, Any]) -> Tensor | None:
        """The loss, with gradients ready for the optimizer or the scaler; None if the user's code skips the step."""
        call, optimizer = self._local.call, self._optimizer
        with self._local.forward_context():
            output = self._training_step(batch, index)
        loss = loss_of(output)
        call("on_before_zero_grad", optimizer)
        call(
            "optimizer_zero_grad",
            self._local.module.current_epoch,
            index,
            optimizer,
            default=self._optimizers.zero_grad,
        )
        if loss is None:
            return None
        self._backward(loss, self._scaler)
        if self._scaler is None:
            self._change_gradients()
        outputs.update(output if isinstance(output, dict) else {}, loss=loss.detach())
        return outputs["loss"]  # type: ignore[no-any-return]

    def _take_scaled(
        self, scaler: torch.amp.GradScaler, optimizer: Optimizer, closure: Callable[[], Any], **options: Any
    ) -> Any:
        """Step as Lightning's ``MixedPrecision`` does: it unscales here, as user code may call the closure twice."""
        if closure() is None:
            return None
        scaler.unscale_(optimizer)
        self._change_gradients()
        result = scaler.step(optimizer, **options)
        scaler.update()
        return result
