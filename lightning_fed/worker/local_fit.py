"""The worker's copy of the user's module, and local training on it: what a Trainer does, for one worker in one round.

The order of hooks within a step is the Trainer's. What differs: a fresh optimizer and fresh metrics for every worker
and round, ``self.log`` writes into a recorder, and ``self.trainer`` is a view in which the local training is the fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor
from torch.optim import Optimizer

from lightning_fed._lightning import (
    extract_batch_size,
    pl,
)
from lightning_fed.core.tree import Tensors, copy_
from lightning_fed.population import Batches, Worker, examples_per_pass
from lightning_fed.wire import Job, LocalTraining
from lightning_fed.worker.batch_sizes import BatchSizes
from lightning_fed.worker.compiled import compiled_or_not
from lightning_fed.worker.dp_sgd import RecordPrivateGradients
from lightning_fed.worker.gradient_corrections import GradientCorrections
from lightning_fed.worker.module_copy import ModuleCopy, examples_in, loss_of
from lightning_fed.worker.optimizer import LocalOptimizer
from lightning_fed.worker.recorder import Recorder, weighted_mean
from lightning_fed.worker.result import LocalResult

# The scale that a fresh GradScaler starts from: torch's own 2**16 would skip a worker's first steps on overflow, and a
# worker may have few.
_FIRST_SCALE = 2.0**10


@final
class LocalFit:
    """A copy of the user's module on which workers train, one after another.

    Args:
        module: The user's module, placed on its device and in its precision.
        trainer: The server's Trainer.
        compile: Whether to compile ``training_step``.
        channels_last: Whether images and convolutions lie in memory with their channels last.

    Raises:
        ValueError: If the module cannot be trained locally.
    """

    def __init__(
        self, module: pl.LightningModule, trainer: pl.Trainer, compile: bool = False, channels_last: bool = False
    ) -> None:
        self.recorder = Recorder()
        self._local = ModuleCopy(module, trainer, self.recorder, channels_last)
        self._training_step: Callable[[Any, int], Any] = self._local.training_step
        if compile:
            self._local.keep_from_compilation()
            self._training_step = compiled_or_not(self._local.training_step)
        self.module = self._local.module
        self.trainer = self._local.trainer
        self._optimizer = LocalOptimizer(self.module, self.trainer)
        self._hooks = self._local.hooks
        self._corrections: GradientCorrections | None = None
        self._compiles = compile
        self._sizes = BatchSizes()
        self._record_level: RecordPrivateGradients | None = None

    def check(self) -> None:
        """Refuse at the start what would fail in the middle.

        Raises:
            ValueError: If ``configure_optimizers`` gives something that local training cannot use.
        """
        self.trainer.plan(LocalTraining(), 1)
        self._optimizer.fresh(cohort=-1)

    def train(self, job: Job, worker: Worker, delta: Tensors) -> LocalResult:
        """Train on one worker's data, starting from the global model.

        Args:
            job: What the server sent.
            worker: Whose data.
            delta: Where to put global minus local, by name.

        Raises:
            Exception: Whatever the user's code or the worker's data raises.
        """
        own = job.start.get(worker.name)
        copy_(
            self._local.parameters, job.model.parameters if own is None else job.model.layout.unflatten(own.parameters)
        )
        copy_(self._local.buffers, job.model.buffers if own is None else {**job.model.buffers, **own.buffers})
        for metric in self._local.metrics:
            metric.reset()
        self.recorder.clear()
        self.trainer.plan(job.local, _num_batches(job, worker))
        self._corrections = GradientCorrections.of(job, [worker.name], stacked=False)
        batches = worker.batches
        try:
            with torch.enable_grad():
                loss, examples, steps = self._fit(job, worker, batches)
        finally:
            batches.rest()
        with torch.no_grad():
            for name, sent in job.model.wide_parameters.items():
                trained = self._local.parameters[name]
                if trained.shape != sent.shape:  # the difference would broadcast
                    raise ValueError(
                        f"after its training {name} has shape {tuple(trained.shape)} and not the global model's "
                        f"{tuple(sent.shape)}; change values of parameters in place, and leave their shapes"
                    )
                torch.sub(sent, trained, out=delta[name])
        return LocalResult(
            worker=worker.name,
            examples=examples,
            loss=loss,
            steps=steps,
            metrics=self.recorder.results(),
            buffers={n: b.detach().clone() for n, b in self._local.buffers.items()},
            gradient=None if self._corrections is None else self._corrections.mean_gradient(),
        )

    def _fit(self, job: Job, worker: Worker, own: Batches) -> tuple[float, float, int]:
        """Pass over the worker's batches; gives the mean loss, the worker's number of examples and the steps."""
        local = job.local_of(worker.name, _num_batches(job, worker))
        optimizer = self._optimizer.fresh(job.cohort, job.lr_factor)
        record_level = self._hiding_records(job, worker, optimizer)
        scaler = self._scaler()
        transfer = self._local.transfer(worker)
        losses: list[Tensor] = []
        sizes: list[int] = []
        seen: list[tuple[int, int]] = []
        is_counted = own.num_examples is None and record_level is None
        is_whole = True
        step = passes = 0
        while local.steps is not None or passes < local.epochs:
            passes += 1
            before, index = step, -1
            self._call("on_train_epoch_start")
            batches = own if record_level is None else record_level.batches(own)
            for index, (batch, size) in enumerate(batches):
                self.trainer.is_last_batch = index + 1 == self.trainer.num_training_batches
                batch = transfer(batch)
                self.recorder.batch_size = lambda b=batch, n=size: extract_batch_size(b) if n is None else n  # type: ignore[misc]
                self.recorder.said.clear()
                if self._call("on_train_batch_start", batch, index) == -1:
                    break
                is_empty = record_level is not None and examples_in(batch) == 0
                output = {} if is_empty else self._step(optimizer, scaler, batch, index)
                if size is None and is_counted:
                    size = self._sizes.of(worker.name, batch, self.recorder.said)
                elif size is None:
                    size = examples_in(batch)
                if record_level is not None and not output:
                    # Nobody was drawn, or the user's code skips these examples: that must not show.
                    self._step_on_nothing(record_level)
                seen.append((index, size))
                if output:
                    losses.append(output["loss"])
                    sizes.append(size)
                step += 1
                self._optimizer.step_schedulers("step", step)
                if self.trainer.is_last_batch:
                    self._optimizer.step_schedulers("epoch", passes)
                self._call("on_train_batch_end", output, batch, index)
                if step == local.steps:
                    is_whole = False  # unless the number of batches says otherwise
                    break
            if not self.trainer.is_last_batch:  # cut short, or of a length that only the pass could tell
                self._optimizer.step_schedulers("epoch", passes)
            self._call("on_train_epoch_end")
            if index < 0:
                raise ValueError(f"its train_dataloader gave no batch in pass {passes}")
            if step in (before, local.steps):
                break
        if record_level is not None:
            return weighted_mean(losses, sizes), own.num_rows or 0, step
        if not losses:  # nothing was learnt: the worker has no loss, and counts nothing in means
            return math.nan, 0.0, step
        examples = examples_per_pass(seen, own.num_batches, is_whole) if is_counted else float(own.num_examples or 0)
        return weighted_mean(losses, sizes), examples, step

    def _step(self, optimizer: Optimizer, scaler: torch.amp.GradScaler | None, batch: Any, index: int) -> Any:
        """One local step; gives what a Trainer gives to ``on_train_batch_end``: a dict with the loss, or empty."""
        if not self._hooks and scaler is None and not self._optimizer.needs_closure:
            # The same as below without what is not there: a hook that is not called still costs a look-up when cold.
            with self._local.forward_context():
                loss = loss_of(self._training_step(batch, index))
            self._zero_grad()
            if loss is None:
                return {}
            loss.backward()  # type: ignore[no-untyped-call]
            if self._record_level is not None:
                self._record_level.hide_()
            if self._corrections is not None:
                self._corrections.apply_(self._local.parameters)
            self._optimizer.step()
            return {"loss": loss.detach()}
        outputs: dict[str, Any] = {}

        def closure() -> Tensor | None:
            with self._local.forward_context():
                output = self._training_step(batch, index)
            loss = loss_of(output)
            self._call("on_before_zero_grad", optimizer)
            if "optimizer_zero_grad" in self._hooks:
                self._hooks["optimizer_zero_grad"](self.module.current_epoch, index, optimizer)
            else:
                self._zero_grad()
            if loss is None:
                return None
            self._call("on_before_backward", loss)
            scaled = loss if scaler is None else scaler.scale(loss)
            self._call("backward", scaled, default=scaled.backward)
            self._call("on_after_backward")
            if scaler is not None:
                scaler.unscale_(optimizer)
            if self._record_level is not None:
                self._record_level.hide_()
            if self._corrections is not None:
                self._corrections.apply_(self._local.parameters)
            self._call("on_before_optimizer_step", optimizer)
            self._call("configure_gradient_clipping", optimizer, None, None)
            outputs.update(output if isinstance(output, dict) else {}, loss=loss.detach())
            return outputs["loss"]  # type: ignore[no-any-return]

        if scaler is not None:
            if closure() is not None:
                scaler.step(optimizer)
                scaler.update()
        elif "optimizer_step" in self._hooks or self._optimizer.needs_closure:
            default = partial(optimizer.step, cast(Any, closure))
            self._call("optimizer_step", self.module.current_epoch, index, optimizer, closure, default=default)
        elif closure() is not None:
            self._optimizer.step()
        return outputs

    def _hiding_records(self, job: Job, worker: Worker, optimizer: Optimizer) -> RecordPrivateGradients | None:
        """Get ready for DP-SGD, if the job asks for it."""
        if job.record_privacy is None:
            return None
        scaled = self._local.precision.precision == "16-mixed"  # examples' gradients would be clipped before unscaling
        if self._compiles or scaled or self._optimizer.needs_closure or "optimizer_zero_grad" in self._hooks:
            raise ValueError(
                "RecordDP goes with no compile=True, no precision='16-mixed' (take 'bf16-mixed'), no "
                "optimizer_zero_grad() of the module's own, and with torch's optimizers but LBFGS"
            )
        if self._record_level is None:
            self._record_level = RecordPrivateGradients(self.module, self._local.parameters)
        self._record_level.begin(job, worker.name, optimizer, worker.batches.num_rows or 0)
        return self._record_level

    def _step_on_nothing(self, record_level: RecordPrivateGradients) -> None:
        """A step without examples: noise alone."""
        record_level.zero_grad()
        record_level.hide_(is_empty=True)
        if self._corrections is not None:
            self._corrections.apply_(self._local.parameters)
        self._optimizer.step()

    def _zero_grad(self) -> None:
        self._optimizer.zero_grad()
        if self._record_level is not None:
            self._record_level.zero_grad()

    def _scaler(self) -> torch.amp.GradScaler | None:
        if self._local.precision.precision != "16-mixed":
            return None
        return torch.amp.GradScaler(self._local.device.type, init_scale=_FIRST_SCALE)

    def _call(self, hook: str, *arguments: Any, default: Callable[[], Any] | None = None) -> Any:
        """Call the user's own hook, or else do what Lightning's would do."""
        if hook in self._hooks:
            return self._hooks[hook](*arguments)
        return None if default is None else default()


def _num_batches(job: Job, worker: Worker) -> int | None:
    """The number of batches in a pass, if it is known beforehand."""
    if job.record_privacy is not None:
        return int(1 / job.record_privacy.sampling_rate)
    return worker.batches.num_batches
