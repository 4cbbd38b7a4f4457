"""Choice of the step that a worker takes."""

from __future__ import annotations

from functools import partial
from typing import final

import torch
from torch.optim import LBFGS

from lightning_fed.population.batches import Batches
from lightning_fed.privacy import Noise
from lightning_fed.wire import Job, RecordPrivacy
from lightning_fed.worker.dp_sgd import PrivateGradients
from lightning_fed.worker.gradient_corrections import GradientCorrections
from lightning_fed.worker.local_optimizers import LocalOptimizers
from lightning_fed.worker.local_step.base import Changes, LocalStep, TrainingStep
from lightning_fed.worker.local_step.hooked import HookedStep
from lightning_fed.worker.local_step.manual import ManualStep
from lightning_fed.worker.local_step.plain import PlainStep
from lightning_fed.worker.local_step.private import PrivateStep
from lightning_fed.worker.module_copy import ModuleCopy
from lightning_fed.worker.poisson import PoissonSamples
from lightning_fed.worker.recorder import Recorder

# The scale that a fresh GradScaler starts from: torch's own 2**16 would skip a worker's first steps on overflow, and a
# worker may have few.
_FIRST_SCALE = 2.0**10


@final
class LocalSteps:
    """Chooses how workers step: as the module's hooks, its optimizers, the precision and the job require.

    Args:
        local: The workers' copy of the module.
        training_step: Its ``training_step``.
        optimizers: The workers' optimizers.
        recorder: Takes what is logged.
        compiles: Whether ``training_step`` is compiled.
    """

    def __init__(
        self,
        local: ModuleCopy,
        training_step: TrainingStep,
        optimizers: LocalOptimizers,
        recorder: Recorder,
        compiles: bool,
    ) -> None:
        self._local = local
        self._training_step = training_step
        self._optimizers = optimizers
        self._recorder = recorder
        self._compiles = compiles

    def of(self, job: Job, worker: str, batches: Batches, corrections: GradientCorrections | None) -> LocalStep:
        """Return the step of a worker in a round, whose optimizers are there.

        Args:
            job: The server's job.
            worker: The worker's name.
            batches: Its batches.
            corrections: The algorithm's changes of gradients, if it has any.

        Raises:
            ValueError: If the module cannot take the step that the job requires.
        """
        local, optimizers, scaler = self._local, self._optimizers, self._scaler()
        is_manual = not local.module.automatic_optimization
        if is_manual and job.record_privacy is None:
            return ManualStep(local, self._training_step, optimizers, corrections, scaler)
        changes = () if corrections is None else (partial(corrections.apply_, local.parameters),)
        if job.record_privacy is not None:
            return self._private(job, job.record_privacy, worker, batches, changes, is_manual or scaler is not None)
        if local.hooks or scaler is not None or optimizers.needs_closure:
            return HookedStep(local, self._training_step, optimizers, changes, scaler)
        return PlainStep(local, self._training_step, optimizers, changes)

    def check(self) -> None:
        """Refuse optimizers that the precision cannot step.

        Raises:
            ValueError: If one is LBFGS and losses are scaled.
        """
        if self._scales and any(isinstance(optimizer, LBFGS) for optimizer in self._optimizers.all):
            raise ValueError(
                "precision='16-mixed' scales losses, which goes with no LBFGS, neither here nor in a plain Trainer; "
                "take precision='bf16-mixed', or another optimizer in configure_optimizers()"
            )

    def _private(
        self, job: Job, promised: RecordPrivacy, worker: str, batches: Batches, changes: Changes, is_unfit: bool
    ) -> PrivateStep:
        local, optimizers = self._local, self._optimizers
        if optimizers.plateaus:
            raise ValueError(
                "RecordDP goes with no ReduceLROnPlateau in local training: it follows what the worker logs, which no "
                "noise covers; use a scheduler that counts steps, or use it as server_lr_scheduler"
            )
        # Under loss scaling, examples' gradients would be clipped before unscaling.
        if is_unfit or self._compiles or optimizers.needs_closure or "optimizer_zero_grad" in local.hooks:
            raise ValueError(
                "RecordDP goes with no compile=True, no precision='16-mixed' (take 'bf16-mixed'), no manual "
                "optimization, no optimizer_zero_grad() of the module's own, and with torch's optimizers but LBFGS"
            )
        keys = (job.cohort, worker)
        noise = Noise(promised.seed)
        samples = PoissonSamples(batches.loader, promised, noise, keys)
        gradients = PrivateGradients(local, job, noise, keys, len(samples))
        return PrivateStep(local, self._training_step, optimizers, samples, gradients, changes, self._recorder)

    @property
    def _scales(self) -> bool:
        return self._local.precision.precision == "16-mixed"

    def _scaler(self) -> torch.amp.GradScaler | None:
        if not self._scales:
            return None
        self.check()
        return torch.amp.GradScaler(self._local.device.type, init_scale=_FIRST_SCALE)
