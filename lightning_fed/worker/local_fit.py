"""The worker's copy of the user's module, and local training on it: what a Trainer does, for one worker in one round.

The order of hooks within a step is the Trainer's. What differs: a fresh optimizer and fresh metrics for every worker
and round, ``self.log`` writes into a recorder, and ``self.trainer`` is a view in which the local training is the fit.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from lightning_fed._lightning import pl
from lightning_fed.core.means import weighted_mean
from lightning_fed.core.process_settings import with_settings_kept
from lightning_fed.core.rng import derive, seed_generators
from lightning_fed.core.tree import Tensors
from lightning_fed.core.watch import Watch
from lightning_fed.population import Batches, Worker, examples_per_pass
from lightning_fed.state import OwnState, OwnTables
from lightning_fed.wire import Job
from lightning_fed.worker.batch_sizes import BatchSizes, examples_in
from lightning_fed.worker.compiled import compiled_or_not, keep_from_compilation
from lightning_fed.worker.gradient_corrections import GradientCorrections
from lightning_fed.worker.kept import Kept, Recollection
from lightning_fed.worker.learning_rates import learning_rates
from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step import LocalStep, LocalSteps, PrivateStep, TrainingStep
from lightning_fed.worker.module_copy import ModuleCopy
from lightning_fed.worker.recorder import Recorder, floats
from lightning_fed.worker.result import LocalResult
from lightning_fed.worker.steps_elsewhere import steps_elsewhere
from lightning_fed.worker.streams import Streams
from lightning_fed.worker.trainer_view import NoSingleWorkerError

_AS_THEY_ARE = nullcontext()


@final
class LocalFit:
    """A copy of the user's module on which workers train, one after another.

    Args:
        module: The user's module, placed on its device and in its precision.
        trainer: The server's Trainer.
        compile: Whether to compile ``training_step``.
        channels_last: Whether images and convolutions lie in memory with their channels last.
        kept: The state of a worker's optimizers and schedulers that is kept from round to round.
        own: The workers' own state, in which it is kept.
        quiet: Whether nothing is shown of what the module's code logs by the Trainer.

    Raises:
        ValueError: If the module cannot be trained locally.
    """

    def __init__(
        self,
        module: pl.LightningModule,
        trainer: pl.Trainer,
        compile: bool = False,
        channels_last: bool = False,
        kept: Kept = Kept(),
        own: OwnTables = OwnState().scope(),
        quiet: bool = False,
    ) -> None:
        self.recorder = Recorder()
        self.watch = Watch()
        """Watches over the code of the workers."""
        self.skipped: str | None = None
        """The first worker so far whose ``training_step`` returned None, so that a step was skipped."""
        self._local = ModuleCopy(module, trainer, self.recorder, channels_last, quiet)
        training_step: TrainingStep = self._local.training_step
        if compile:
            keep_from_compilation(self._local.module, self._local.device)
            training_step = compiled_or_not(training_step)
        self.module = self._local.module
        self.trainer = self._local.trainer
        self._validated: Mapping[str, float] = {}
        self.trainer.show(self._logged)
        self._optimizers = LocalOptimizers(self._local)
        self._steps = LocalSteps(self._local, training_step, self._optimizers, self.recorder, compile)
        self._recollection = None if kept.keeps is None else Recollection(kept, own)
        self._epochs_before = 0
        self._rates: dict[str, float] = {}
        self._training = kept.training
        self._continues = kept.schedule == "continue"
        self._keeps_optimizers = kept.keeps_optimizers
        if self._continues:
            self.trainer.expect(kept.rounds)
        self._compiles = compile
        self._sizes = BatchSizes()

    def check(self) -> None:
        """Refuse at the start what would fail in the middle.

        Raises:
            ValueError: If ``configure_optimizers`` gives something that local training cannot use.
        """
        if self._compiles and not self.module.automatic_optimization:
            raise ValueError(
                f"{type(self.module).__name__} optimizes manually (automatic_optimization = False), so its "
                "training_step steps optimizers, and compile=True cannot compile that; leave compile=True out"
            )
        self.trainer.expect_someone(self._training)
        with suppress(NoSingleWorkerError):  # what depends on a worker's data is refused when that worker trains
            self._fresh(cohort=-1)
            self._steps.check()

    def train(self, job: Job, worker: Worker, delta: Tensors) -> LocalResult:
        """Train on one worker's data, starting from the global model.

        Args:
            job: The server's job.
            worker: Whose data.
            delta: Where to put global minus local, by name.

        Raises:
            Exception: Whatever the user's code or the worker's data raises.
        """
        if self._local.begin(job):
            self._optimizers.forget()
        try:
            self._local.start(job, worker.name)
            return self._train(job, worker, delta)
        finally:
            self._local.set_back()

    @property
    def changed(self) -> Sequence[str]:
        """The attributes of the module that training has changed in any worker so far, and that were set back."""
        return self._local.changed

    @property
    def restarted(self) -> tuple[str, bool] | None:
        """The scheduler that begins anew in each round, and whether a step was taken at another rate than the first."""
        return None if self._continues else self._optimizers.restarted

    @property
    def unread(self) -> Sequence[str]:
        """The torchmetrics objects that a worker has filled so far, and of which nobody has read a value."""
        return self._local.metrics.unread

    def _logged(self) -> dict[str, Tensor]:
        """Return the values that user code finds: of the last validation, as in a Trainer, and of this training."""
        return {**{name: torch.tensor(value) for name, value in self._validated.items()}, **self.recorder.current()}

    def _train(self, job: Job, worker: Worker, delta: Tensors) -> LocalResult:
        self._validated = job.validated
        self.recorder.clear()
        seed = derive(job.seed, job.cohort, worker.name)
        seed_generators(seed)
        batches = worker.batches
        batches.reseed(seed, batches.first_epoch(job.cohort, job.local))
        if job.record_privacy is not None and job.record_privacy.seed is None:
            # Which numbers an example's dropout draws depends on who was drawn before it. So who has the run's seed
            # must not be able to compute them: the guarantee is about random numbers that nobody has.
            seed = secrets.randbits(63)
            seed_generators(seed)
        self.trainer.set_length(job.local, _num_batches(job, batches), job.round, job.epoch, worker)
        corrections = GradientCorrections.of(job, [worker.name], stacked=False)
        try:
            with torch.enable_grad():
                take_step = self._step_for(job, worker.name, batches, corrections)
                if self._optimizers.is_new or self._recollection is not None:
                    self._rates = learning_rates(self.trainer.optimizers, job.lr_factor)
                rates = self._rates  # those of the worker before where its optimizers were set back
                try:
                    with self._others(job.lr_factor):
                        loss, examples, steps, passes = self._fit(job, worker, batches, take_step, seed)
                finally:
                    take_step.leave()
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
        self._local.tensors.refuse_unfrozen()
        if self._recollection is not None:
            optimizers = self._optimizers
            self._recollection.stage(worker.name, optimizers.all, optimizers.schedulers, passes, job.epoch)
        metrics, states = self.recorder.results(), self._local.metric_states()
        self._local.metrics.note()
        buffers = {**self._local.buffers, **self._local.tensors.moved()}
        return LocalResult(
            worker=worker.name,
            examples=examples,
            loss=loss,
            steps=steps,
            metrics=metrics,
            buffers={name: buffer.detach().clone() for name, buffer in buffers.items()},
            shown=self.recorder.shown(),
            metric_states=states,
            rates=rates,
            gradient=None if corrections is None else corrections.mean_gradient(),
        )

    def _fit(
        self, job: Job, worker: Worker, own: Batches, take_step: LocalStep, seed: int
    ) -> tuple[float, float, int, int]:
        """Pass over the worker's batches; returns the mean loss, the worker's number of examples, steps and passes."""
        local = job.local_of(worker.name, _num_batches(job, own))
        call, transfer = self._local.call, self._local.transfers.of(worker, own)
        losses: list[Tensor] = []
        sizes: list[int] = []
        seen: list[tuple[int, int]] = []
        is_counted = own.num_examples is None and job.record_privacy is None
        is_whole = True
        step = passes = 0
        plateaus = self._optimizers.plateaus
        has_plateaus = bool(plateaus)
        streams, state = Streams(seed), vars(self.trainer)
        at_once = own.draws_at_once and self._local.transfers.are_plain(worker) and job.record_privacy is None
        while local.steps is not None or passes < local.epochs:
            passes += 1
            before, index = step, -1
            self.recorder.begin_pass()
            call("on_train_epoch_start")
            drawn = streams.apart(take_step.batches(own, transfer), at_once)
            if not at_once:  # the data's code runs between the steps
                drawn = with_settings_kept(drawn, partial(self.watch.note, worker.name))
            for index, (batch, size) in enumerate(() if state["should_stop"] else drawn):
                state["is_last_batch"] = is_last = index + 1 == state["num_training_batches"]
                self.recorder.begin_batch(batch, size)
                if call("on_train_batch_start", batch, index) == -1:
                    self._refuse_to_stop_in_private(job)
                    state["is_last_batch"] = True  # a Trainer's pass ends with it, as with one that is trained on
                    self._optimizers.step_schedulers("step", index + 1)
                    self._optimizers.step_schedulers("epoch", self._epochs_before + passes)
                    break
                output = take_step(batch, index)
                if size is None:
                    size = self._size(worker, batch) if is_counted else examples_in(batch)
                seen.append((index, size))
                step_loss = take_step.loss(output)
                if step_loss is not None:
                    losses.append(step_loss)
                    sizes.append(size)
                elif self.skipped is None and job.record_privacy is None:  # which hides whether examples are skipped
                    self.skipped = worker.name
                step += 1
                self._optimizers.step_schedulers("step", index + 1)
                if is_last:
                    self._optimizers.step_schedulers("epoch", self._epochs_before + passes)
                call("on_train_batch_end", output, batch, index)
                if has_plateaus:
                    plateaus.step("step", index + 1, self.recorder.value_of)
                if step == local.steps or state["should_stop"]:
                    is_whole = False  # unless the number of batches shows otherwise
                    break
            if not state["is_last_batch"]:  # cut short, or of a length that only the pass shows
                self._optimizers.step_schedulers("epoch", self._epochs_before + passes)
            self.recorder.pass_is_over = True
            call("on_train_epoch_end")
            if has_plateaus:
                plateaus.step("epoch", self._epochs_before + passes, self.recorder.value_of)
            if state["should_stop"]:
                self._refuse_to_stop_in_private(job)
                break
            if index < 0:
                raise ValueError(f"its train_dataloader gave no batch in pass {passes}")
            if local.steps is not None and step in (before, local.steps):  # a pass without a step would repeat for ever
                break
        self.recorder.end_passes()
        loss = weighted_mean(floats(losses), sizes)
        take_step.end()
        if isinstance(take_step, PrivateStep):
            return loss, take_step.num_examples, step, passes
        if not losses:  # nothing was learnt: the worker has no loss, and counts nothing in means
            return math.nan, 0.0, step, passes
        examples = examples_per_pass(seen, own.num_batches, is_whole) if is_counted else float(own.num_examples or 0)
        return loss, examples, step, passes

    def _size(self, worker: Worker, batch: Any) -> int:
        return self._sizes.of(worker.name, batch, self.recorder.said, worker.batches.gives_items)

    def _refuse_to_stop_in_private(self, job: Job) -> None:
        if job.record_privacy is not None:
            raise ValueError(
                "RecordDP goes with no self.trainer.should_stop and no on_train_batch_start() that returns -1: the "
                "number of steps tells of examples; leave them out"
            )

    def _step_for(self, job: Job, worker: str, batches: Batches, corrections: GradientCorrections | None) -> LocalStep:
        """Return the step of a worker, with the optimizers that it begins with."""
        optimizers, local = self._optimizers, self._local
        self._fresh(job.cohort, job.lr_factor)
        if optimizers.is_new and local.configured():
            optimizers.forget()
        if self._recollection is not None:
            past, last = self._recollection.recall(job.cohort, worker, optimizers.all, optimizers.schedulers)
            self._epochs_before = past
            if self._continues:
                optimizers.plateaus.go_on(job.validated, job.epoch, last)
        return self._steps.of(job, worker, batches, corrections)

    def _others(self, lr_factor: float) -> AbstractContextManager[None]:
        """Watch the steps of optimizers that are made elsewhere, if state is kept or the rate has a factor."""
        if lr_factor == 1 and not self._keeps_optimizers:
            return _AS_THEY_ARE
        return steps_elsewhere(self._optimizers.all, lr_factor, self._keeps_optimizers)

    def _fresh(self, cohort: int, lr_factor: float = 1.0) -> None:
        """Make optimizers without a past; where their state is kept, find out once what state they have."""
        self._optimizers.fresh(cohort, lr_factor)
        if self._recollection is not None and not self._recollection.is_prepared:
            self._recollection.prepare(self._optimizers.all)
            self._optimizers.forget()  # they have taken a step
            self._optimizers.fresh(cohort, lr_factor)


def _num_batches(job: Job, batches: Batches) -> int | None:
    """The number of batches in a pass, if it is known beforehand."""
    if job.record_privacy is not None:
        return job.record_privacy.steps_per_pass
    return batches.num_batches
