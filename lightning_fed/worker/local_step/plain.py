"""The step of a module without hooks of its own around it."""

from __future__ import annotations

from typing import Any, final

from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step.base import Changes, LocalStep, TrainingStep
from lightning_fed.worker.module_copy import ModuleCopy, loss_of


@final
class PlainStep(LocalStep):
    """A step of a module without hooks of its own around it.

    The same as :class:`HookedStep` without what is not there: a look-up of a hook costs time even if there is none.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizers: The worker's optimizer, as new.
        changes: Changes of gradients.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizers: LocalOptimizers,
        changes: Changes,
    ) -> None:
        super().__init__(local, training_step, optimizers)
        self._forward_context = local.forward_context
        self._zero_grad = optimizers.zero_grad
        self._changes = changes
        self._step = optimizers.step

    def __call__(self, batch: Any, index: int) -> dict[str, Any]:
        with self._forward_context():
            loss = loss_of(self._training_step(batch, index))
        self._zero_grad()
        if loss is None:
            return {}
        loss.backward()  # type: ignore[no-untyped-call]
        for change in self._changes:
            change()
        self._step()
        return {"loss": loss.detach()}
