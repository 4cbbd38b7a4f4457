"""The step of a module with hooks of its own around it, as a Trainer takes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor

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
        zero_grad: Forgets the gradients of the step before, unless the user's own ``optimizer_zero_grad`` does.
        changes: What happens to gradients, before hooks see them.
        scaler: Scales the loss, so that gradients in half precision do not underflow.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizers: LocalOptimizers,
        zero_grad: Callable[[], None],
        changes: Changes,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        super().__init__(local, training_step, optimizers, changes)
        self._zero_grad = zero_grad
        self._scaler = scaler

    def __call__(self, batch: Any, index: int) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        closure = partial(self._closure, batch, index, outputs)
        if self._scaler is not None:
            if closure() is not None:
                self._scaler.step(self._optimizer)
                self._scaler.update()
        elif "optimizer_step" in self._local.hooks or self._optimizers.needs_closure:
            default = partial(self._optimizer.step, cast(Any, closure))
            self._step_by_hook(index, closure, default)
        elif closure() is not None:
            self._optimizers.step()
        return outputs

    def _closure(self, batch: Any, index: int, outputs: dict[str, Any]) -> Tensor | None:
        """The loss, with gradients ready for the optimizer; None if the user's code skips the step."""
        call, optimizer = self._local.call, self._optimizer
        with self._local.forward_context():
            output = self._training_step(batch, index)
        loss = loss_of(output)
        call("on_before_zero_grad", optimizer)
        call("optimizer_zero_grad", self._local.module.current_epoch, index, optimizer, default=self._zero_grad)
        if loss is None:
            return None
        self._backward(loss, self._scaler)
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        self._change_gradients()
        outputs.update(output if isinstance(output, dict) else {}, loss=loss.detach())
        return outputs["loss"]  # type: ignore[no-any-return]
