"""The batches of an evaluation on their way to the Trainer: moved to the device, and their workers noted."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol, final

import torch

from lightning_fed._lightning import pl
from lightning_fed.core.watch import Watch
from lightning_fed.hooks import place_batch
from lightning_fed.population import WorkerPool
from lightning_fed.server.evaluation.elsewhere import StandIn
from lightning_fed.server.loaders import EvaluationBatch, what_failed
from lightning_fed.wire import WorkerError


class RunningEvaluation(Protocol):
    """Interface that notes batches of an evaluation and workers whose data raises, and says who is left out."""

    def begin_batch(self, batch: EvaluationBatch) -> None:
        """Note whose batch is the next one."""

    def fail(self, worker: str, reason: str, error: Exception) -> None:
        """Note a worker, or raise."""

    def is_out(self, worker: str | None) -> bool:
        """Whether no more is asked of a worker."""

    def seeing_data_of(self, worker: str | None) -> AbstractContextManager[None]:
        """Let the user's module see on its Trainer the datamodule of a worker's batch; None: the central one."""


@final
class EvaluationBatches:
    """Brings batches to the device through the hooks of their datamodule or of the user's module.

    Args:
        pool: The workers.
    """

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self.module: pl.LightningModule | None = None
        """The user's module; None outside of runs."""
        self._evaluation: RunningEvaluation | None = None

    def attach(self, module: pl.LightningModule, evaluation: RunningEvaluation) -> None:
        """Serve a run.

        Args:
            module: The user's module, whose transfer hooks the batches pass.
            evaluation: That of the run.
        """
        self.module, self._evaluation = module, evaluation

    def detach(self) -> None:
        """Serve no run."""
        self.module = self._evaluation = None

    def fail(self, worker: str, reason: str, error: Exception) -> None:
        """Note that a worker's data has raised.

        Args:
            worker: Its name.
            reason: What happened, in words.
            error: The cause.

        Raises:
            WorkerError: If that ends the run, or there is none.
        """
        if self._evaluation is None:  # no run: user code goes through a loader
            raise WorkerError(worker, 0, reason) from error
        self._evaluation.fail(worker, reason, error)

    def is_out(self, worker: str) -> bool:
        """Whether no more batches of a worker are wanted."""
        return self._evaluation is not None and self._evaluation.is_out(worker)

    def placed(
        self,
        batch: Any,
        device: torch.device,
        central: pl.LightningDataModule | None,
        trainer: pl.Trainer | None,
        dataloader_idx: int,
    ) -> Any:
        """Return the user's own batch, on the device, once a run has been attached.

        Args:
            batch: The batch, and whose it is; or another that Lightning moves, such as the ``example_input_array``.
            device: Where it is to go.
            central: The central datamodule, if there is one.
            trainer: The Trainer.
            dataloader_idx: The loader's index.

        Raises:
            WorkerError: If a hook raises, and that ends the run.
        """
        assert self.module is not None
        assert self._evaluation is not None
        if not isinstance(batch, EvaluationBatch):
            return place_batch(batch, device, None, self.module, dataloader_idx)
        if isinstance(batch.batch, StandIn):
            self._evaluation.begin_batch(batch)
            return batch.batch
        own = self._own(batch, device, self.module, self._evaluation, central, trainer, dataloader_idx)
        self._evaluation.begin_batch(own)
        return own.batch

    def _own(
        self,
        batch: EvaluationBatch,
        device: torch.device,
        module: pl.LightningModule,
        evaluation: RunningEvaluation,
        central: pl.LightningDataModule | None,
        trainer: pl.Trainer | None,
        dataloader_idx: int,
    ) -> EvaluationBatch:
        assert trainer is not None
        if batch.worker is None:
            with evaluation.seeing_data_of(None):
                return batch._replace(batch=place_batch(batch.batch, device, central, module, dataloader_idx))
        try:
            if self.is_out(batch.worker):
                return batch
            datamodule = self._pool[batch.worker].datamodule
            with Watch().over(batch.worker, trainer.global_step), evaluation.seeing_data_of(batch.worker):
                return batch._replace(batch=place_batch(batch.batch, device, datamodule, module, dataloader_idx))
        except Exception as error:
            self.fail(batch.worker, what_failed("to transfer its batch", error), error)
            return batch
