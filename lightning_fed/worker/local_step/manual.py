"""The step of a module that steps its optimizers itself (``automatic_optimization = False``)."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_fed._lightning import MisconfigurationException
from lightning_fed.worker.gradient_corrections import GradientCorrections
from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step.base import LocalStep, TrainingStep
from lightning_fed.worker.module_copy import ModuleCopy
from lightning_fed.worker.outermost_steps import Arguments, OutermostSteps


@final
class ManualStep(LocalStep):
    """A step that is the user's own, from ``zero_grad`` to the last optimizer's ``step``.

    As in a Trainer, ``self.manual_backward`` calls ``on_before_backward``, ``backward`` and ``on_after_backward``, an
    optimizer's ``step`` calls ``on_before_optimizer_step`` after its closure, and schedulers are the user's to step.
    What an algorithm adds to gradients comes last: right before an optimizer moves parameters, on those that it owns,
    also if user code has built that optimizer elsewhere than in ``configure_optimizers``. It is gone after the step, so
    that neither another optimizer nor a second step on the same gradients adds it again. Steps within a step, as of the
    optimizer that a SAM or a Lookahead wraps, are parts of that one.

    The loss is what ``training_step`` returns. If it returns none, it is the mean of what it has passed to
    ``self.manual_backward``; if there was nothing, it is NaN.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizers: The worker's optimizers, as new.
        corrections: The algorithm's changes of gradients, if it has any.
        scaler: Scales losses, so that gradients in half precision do not underflow.

    Raises:
        ValueError: If the algorithm corrects gradients, and there is no optimizer to do so before.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizers: LocalOptimizers,
        corrections: GradientCorrections | None,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        super().__init__(local, training_step, optimizers)
        self._scaler = scaler
        self._losses: list[Tensor] = []
        optimizers.take = self._take
        local.methods.backward = self._backward
        local.tensors.spare.clear()  # gradients of the worker before, which a step of ours would free
        self._names = {parameter: name for name, parameter in local.parameters.items()}
        self._replaced: list[tuple[Tensor, Tensor, Tensor]] = []  # parameters, their own gradients, and the corrected
        self._steps: OutermostSteps | None = None
        if corrections is not None:
            if not local.trainer.optimizers:
                raise ValueError(
                    f"{type(local.module).__name__}.configure_optimizers() returned no optimizer, before whose steps "
                    "the algorithm would correct gradients; return those that training_step steps, wherever they are "
                    "made, or use FedAvg()"
                )
            self._steps = OutermostSteps(partial(self._before_step, corrections), self._after_step)

    def __call__(self, batch: Any, index: int) -> dict[str, Any]:
        if self._steps is not None:
            self._steps.settle()
        self._losses.clear()
        with self._local.forward_context():
            output = self._training_step(batch, index)
        if output is None:
            return {}
        if isinstance(output, Tensor):
            output = {"loss": output}
        elif not isinstance(output, dict):
            raise MisconfigurationException(
                "in manual optimization, training_step must return a tensor, a dict, or nothing, not "
                f"{type(output).__name__}"
            )
        return {**output, "loss": output["loss"].detach()} if "loss" in output else dict(output)

    def loss(self, outputs: dict[str, Any]) -> Tensor:
        if "loss" in outputs:
            return outputs["loss"].mean()  # type: ignore[no-any-return]
        return torch.stack(self._losses).mean() if self._losses else torch.tensor(math.nan)

    def _backward(self, loss: Tensor, *arguments: Any, **options: Any) -> None:
        """Take the place of ``self.manual_backward``."""
        call = self._local.call
        self._losses.append(loss.detach().mean())
        call("on_before_backward", loss)
        scaled = loss if self._scaler is None else self._scaler.scale(loss)
        call("backward", scaled, *arguments, default=partial(scaled.backward, *arguments, **options), **options)
        call("on_after_backward")

    def _take(self, optimizer: Optimizer, closure: Callable[[], Any], **options: Any) -> Any:
        """Step with an optimizer, as the Trainer's precision does."""
        self._optimizers.note_rates()
        if self._scaler is not None:
            closure()
            self._scaler.unscale_(optimizer)
            self._local.call("on_before_optimizer_step", optimizer)
            result = self._scaler.step(optimizer, **options)
            self._scaler.update()
            return result

        def closed() -> Any:
            value = closure()
            self._local.call("on_before_optimizer_step", optimizer)
            return value

        return optimizer.step(closure=closed, **options)

    def leave(self) -> None:
        if self._steps is not None:
            self._steps.close()

    def _correct(self, corrections: GradientCorrections, optimizer: Optimizer) -> None:
        owned = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        parameters = {self._names[p]: p for p in owned if p in self._names}
        if not parameters:
            return
        if corrections.add_something:
            for parameter in parameters.values():
                own = parameter.grad
                if own is not None:
                    parameter.grad = own.clone()
                    self._replaced.append((parameter, own, parameter.grad))
        corrections.apply_(parameters)

    def _put_back(self) -> None:
        """Put back the gradients that user code has computed, where it has computed no others since."""
        for parameter, own, corrected in self._replaced:
            if parameter.grad is corrected:
                parameter.grad = own
        self._replaced.clear()

    def _before_step(
        self,
        corrections: GradientCorrections,
        optimizer: Optimizer,
        arguments: tuple[Any, ...],
        options: dict[str, Any],
    ) -> Arguments | None:
        """Correct gradients once they are there: now, or after the closure that an optimizer's ``step`` is given."""
        step: Any = type(optimizer).step
        bound = inspect.signature(step).bind(*arguments, **options) if len(arguments) > 1 else None
        closure = options.get("closure") if bound is None else bound.arguments.get("closure")
        if closure is None:
            self._correct(corrections, optimizer)
            return None

        def corrected() -> Any:
            self._put_back()
            value = closure()
            self._correct(corrections, optimizer)
            return value

        if bound is None:
            return arguments, {**options, "closure": corrected}
        bound.arguments["closure"] = corrected
        return bound.args, bound.kwargs

    def _after_step(self, optimizer: Optimizer) -> None:
        self._put_back()
