"""The step of DP-SGD, which hides single examples."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed.population.batches import Batches
from lightning_fed.worker.dp_sgd import PrivateGradients
from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step.automatic import AutomaticStep
from lightning_fed.worker.local_step.base import Changes, TrainingStep, Transfer
from lightning_fed.worker.module_copy import ModuleCopy, loss_of
from lightning_fed.worker.poisson import PoissonSamples
from lightning_fed.worker.recorder import Recorder


@final
class PrivateStep(AutomaticStep):
    """A step of DP-SGD: ``training_step`` and the hooks up to the backward pass for each example of a sample alone.

    What comes before the noise is called once for each example, with a batch of that one; hooks that come after it see
    noised gradients, and the closure that ``optimizer_step`` gets returns no loss. An example for which
    ``training_step`` returns None adds nothing, and a step without any is one of noise: neither may show.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizers: The worker's optimizer, as new.
        samples: Samples of the worker's examples.
        gradients: Hides single examples.
        changes: Other changes of gradients, after the noise.
        recorder: Takes what is logged, of one example at a time.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizers: LocalOptimizers,
        samples: PoissonSamples,
        gradients: PrivateGradients,
        changes: Changes,
        recorder: Recorder,
    ) -> None:
        super().__init__(local, training_step, optimizers, changes)
        self._samples = samples
        self._gradients = gradients
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
        self._recorder.begin_batch(batch, 1)  # of the values of each example
        self._is_called = False
        released = self._gradients.releases
        losses: list[Tensor] = []
        closure = partial(self._closure, batch, index, losses)
        if "optimizer_step" in self._local.hooks:
            self._step_by_hook(index, closure)
        else:
            closure()
            self._optimizers.step()
        if self._gradients.releases == released:
            raise ValueError(
                "RecordDP: optimizer_step() did not call its closure, or went on after its error, and whether it does "
                "may tell of examples; let it call optimizer.step(closure=optimizer_closure) once in every step"
            )
        self._gradients.end()
        return {"loss": torch.stack(losses).mean()} if losses else {}

    def end(self) -> None:
        self._gradients.check_unmoved()  # something besides the optimizer may have moved a tensor after the last step

    def _closure(self, batch: list[Any], index: int, losses: list[Tensor]) -> None:
        """Leave noised gradients for the optimizer; no loss, which no noise hides."""
        optimizer = self._optimizer
        if self._is_called:
            raise ValueError(
                "RecordDP: optimizer_step() calls its closure twice in a step, and each call would release gradients "
                "that are charged once; let it call optimizer.step(closure=optimizer_closure) once"
            )
        self._is_called = True
        self._local.call("on_before_zero_grad", optimizer)
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
        self._change_gradients()

    def _add(self, example: Any, index: int, losses: list[Tensor]) -> None:
        if self._local.trainer.is_quiet:  # what metrics hold is not shown, and must not get into the next one's loss
            self._local.metrics.reset()
        with self._local.forward_context():
            loss = loss_of(self._training_step(example, index))
        if loss is None:
            return
        self._gradients.zero_grad()
        self._backward(loss)
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
