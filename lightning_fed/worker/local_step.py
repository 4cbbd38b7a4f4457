"""One step of a worker's local training: from a batch to parameters that have moved."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias, cast, final

import torch
from torch import Tensor

from lightning_fed.population.batches import Batches
from lightning_fed.worker.dp_sgd import PrivateGradients
from lightning_fed.worker.module_copy import ModuleCopy, loss_of
from lightning_fed.worker.optimizer import LocalOptimizer
from lightning_fed.worker.poisson import PoissonSamples
from lightning_fed.worker.recorder import Recorder

TrainingStep: TypeAlias = Callable[[Any, int], Any]
"""The user's ``training_step``, of a batch and its index, compiled or not."""

Transfer: TypeAlias = Callable[[Any], Any]
"""Brings a batch to the device and into the precision."""

Changes: TypeAlias = Sequence[Callable[[], None]]
"""Changes of gradients in place, in order: between the backward pass and the optimizer's step."""


class LocalStep(ABC):
    """How one worker steps in one round. An instance serves one worker in one round."""

    @abstractmethod
    def __call__(self, batch: Any, index: int) -> dict[str, Any]:
        """Step on a batch.

        Args:
            batch: The batch, on the device.
            index: Its place in the pass.

        Returns:
            What a Trainer passes to ``on_train_batch_end``: a dict with the detached ``loss``; empty if there was none.
        """

    def batches(self, batches: Batches, transfer: Transfer | None) -> Iterable[tuple[Any, int | None]]:
        """One pass over a worker's examples: batches, each with its number of examples (None: to be inferred).

        Args:
            batches: The worker's own batches.
            transfer: What is to be done with each; None: nothing.
        """
        return batches if transfer is None else ((transfer(batch), size) for batch, size in batches)


@final
class PlainStep(LocalStep):
    """A step of a module without hooks of its own around it.

    The same as :class:`HookedStep` without what is not there: a look-up of a hook costs time even if there is none.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizer: The worker's optimizer, as new.
        zero_grad: Forgets the gradients of the step before.
        changes: What happens to gradients.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizer: LocalOptimizer,
        zero_grad: Callable[[], None],
        changes: Changes,
    ) -> None:
        self._forward_context = local.forward_context
        self._training_step = training_step
        self._zero_grad = zero_grad
        self._changes = changes
        self._step = optimizer.step

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


@final
class HookedStep(LocalStep):
    """A step with all of Lightning's hooks in a Trainer's order, optimizers that need a closure, and loss scaling.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizer: The worker's optimizer, as new.
        zero_grad: Forgets the gradients of the step before, unless the user's own ``optimizer_zero_grad`` does.
        changes: What happens to gradients, before hooks see them.
        scaler: Scales the loss, so that gradients in half precision do not underflow.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizer: LocalOptimizer,
        zero_grad: Callable[[], None],
        changes: Changes,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self._local = local
        self._training_step = training_step
        self._optimizer = optimizer
        self._wrapped = local.trainer.optimizers[0]
        self._zero_grad = zero_grad
        self._changes = changes
        self._scaler = scaler

    def __call__(self, batch: Any, index: int) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        closure = partial(self._closure, batch, index, outputs)
        if self._scaler is not None:
            if closure() is not None:
                self._scaler.step(self._wrapped)
                self._scaler.update()
        elif "optimizer_step" in self._local.hooks or self._optimizer.needs_closure:
            default = partial(self._wrapped.step, cast(Any, closure))
            epoch = self._local.module.current_epoch
            self._local.call("optimizer_step", epoch, index, self._wrapped, closure, default=default)
        elif closure() is not None:
            self._optimizer.step()
        return outputs

    def _closure(self, batch: Any, index: int, outputs: dict[str, Any]) -> Tensor | None:
        """The loss, with gradients ready for the optimizer; None if the user's code skips the step."""
        call, optimizer = self._local.call, self._wrapped
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


@final
class PrivateStep(LocalStep):
    """A step of DP-SGD: ``training_step`` and the hooks up to the backward pass for each example of a sample alone.

    What comes before the noise is called once for each example, with a batch of that one; hooks that come after it see
    noised gradients, and the closure that ``optimizer_step`` gets tells no loss. An example for which
    ``training_step`` returns None adds nothing, and a step without any is one of noise: neither may show.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizer: The worker's optimizer, as new.
        samples: Samples of the worker's examples.
        gradients: Hides single examples.
        changes: What else happens to gradients, after the noise.
        recorder: Takes what is logged, of one example at a time.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizer: LocalOptimizer,
        samples: PoissonSamples,
        gradients: PrivateGradients,
        changes: Changes,
        recorder: Recorder,
    ) -> None:
        self._local = local
        self._training_step = training_step
        self._optimizer = optimizer
        self._wrapped = local.trainer.optimizers[0]
        self._samples = samples
        self._gradients = gradients
        self._changes = changes
        self._recorder = recorder
        self._is_called = False

    @property
    def num_examples(self) -> int:
        """The number of the worker's examples."""
        return len(self._samples)

    def batches(self, batches: Batches, transfer: Transfer | None) -> Iterator[tuple[list[Any], int]]:
        for sample in self._samples.one_pass():
            yield (sample if transfer is None else [transfer(example) for example in sample]), len(sample)

    def __call__(self, batch: list[Any], index: int) -> dict[str, Any]:
        self._recorder.batch_size = lambda: 1
        self._is_called = False
        released = self._gradients.releases
        losses: list[Tensor] = []
        closure = partial(self._closure, batch, index, losses)
        if "optimizer_step" in self._local.hooks:
            self._local.call("optimizer_step", self._local.module.current_epoch, index, self._wrapped, closure)
        else:
            closure()
            self._optimizer.step()
        if self._gradients.releases == released:
            raise ValueError(
                "RecordDP: optimizer_step() did not call its closure, or went on after its error, and whether it does "
                "may tell of examples; let it call optimizer.step(closure=optimizer_closure) once in every step"
            )
        self._gradients.end()
        return {"loss": torch.stack(losses).mean()} if losses else {}

    def end(self) -> None:
        """End the training.

        Raises:
            ValueError: If something besides the optimizer has moved a parameter or a buffer after the last step.
        """
        self._gradients.check_unmoved()

    def _closure(self, batch: list[Any], index: int, losses: list[Tensor]) -> None:
        """Leave noised gradients for the optimizer; no loss, which no noise hides."""
        call, optimizer = self._local.call, self._wrapped
        if self._is_called:
            raise ValueError(
                "RecordDP: optimizer_step() calls its closure twice in a step, and each call would release gradients "
                "that are charged once; let it call optimizer.step(closure=optimizer_closure) once"
            )
        self._is_called = True
        call("on_before_zero_grad", optimizer)
        self._gradients.begin()
        settings = _settings(optimizer)
        with torch.enable_grad():
            for example in batch:
                self._add(example, index, losses)
        if _settings(optimizer) != settings:
            raise ValueError(
                "RecordDP: training_step() or a hook of the backward pass changed a setting of the optimizer, such as "
                "its learning rate, and no noise covers what that tells of examples; set it by a scheduler, or in "
                "on_train_batch_start() by the number of the step"
            )
        self._gradients.release_()
        for change in self._changes:
            change()
        call("on_before_optimizer_step", optimizer)
        call("configure_gradient_clipping", optimizer, None, None)

    def _add(self, example: Any, index: int, losses: list[Tensor]) -> None:
        call = self._local.call
        if self._local.trainer.is_quiet:  # what metrics hold is not shown, and must not get into the next one's loss
            for metric in self._local.metrics:
                metric.reset()
        with self._local.forward_context():
            loss = loss_of(self._training_step(example, index))
        if loss is None:
            return
        self._gradients.zero_grad()
        call("on_before_backward", loss)
        call("backward", loss, default=loss.backward)
        call("on_after_backward")
        self._gradients.add()
        losses.append(loss.detach())


def _settings(optimizer: Any) -> list[dict[str, Any]]:
    """The settings of an optimizer, such as learning rates, as they are now."""
    return [
        {
            name: value.tolist() if isinstance(value, Tensor) else value
            for name, value in group.items()
            if name != "params"
        }
        for group in optimizer.param_groups
    ]
