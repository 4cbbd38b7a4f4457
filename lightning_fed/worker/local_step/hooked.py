"""The step of a module with hooks of its own around it, as a Trainer takes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor

from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step.base import Changes, LocalStep, TrainingStep
from lightning_fed.worker.module_copy import ModuleCopy, loss_of


@final
class HookedStep(LocalStep):
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
        self._local = local
        self._training_step = training_step
        self._optimizers = optimizers
        self._optimizer = local.trainer.optimizers[0]
        self._seen = optimizers.wrapped(self._optimizer)
        self._zero_grad = zero_grad
        self._changes = changes
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
            epoch = self._local.module.current_epoch
            self._local.call("optimizer_step", epoch, index, self._seen, closure, default=default)
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
        call("on_before_backward", loss)
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        call("backward", scaled, default=scaled.backward)
        call("on_after_backward")
        if self._scaler is not None:
            self._scaler.unscale_(optimizer)
        for change in self._changes:
            change()
        call("on_before_optimizer_step", optimizer)
        call("configure_gradient_clipping", optimizer, None, None)
        outputs.update(output if isinstance(output, dict) else {}, loss=loss.detach())
        return outputs["loss"]  # type: ignore[no-any-return]
