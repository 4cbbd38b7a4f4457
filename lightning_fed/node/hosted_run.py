"""One run at a node, built from its terms: a Trainer, a copy of the module, the workers, and their own state."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, final

import torch

from lightning_fed._lightning import pl
from lightning_fed.core.watch import counting_signals
from lightning_fed.engines.remarks import Remark
from lightning_fed.engines.sequential import Sequential
from lightning_fed.hooks import overrides
from lightning_fed.node.errors import RefusalError, words_of
from lightning_fed.node.evaluation import evaluate
from lightning_fed.node.file_names import name_of_file
from lightning_fed.population import WorkerPool
from lightning_fed.state import OwnState
from lightning_fed.wire import Job, Share, Updates, WorkerError, describe, encode_share
from lightning_fed.wire.fingerprint import TensorRow, fingerprint_of, rows_of
from lightning_fed.wire.terms import Terms
from lightning_fed.worker.copying import deep_copy
from lightning_fed.worker.far_trainer import FarTrainer
from lightning_fed.worker.outbox import Outbox

_BEFORE_ROUNDS = ("on_fit_start", "on_train_start")


@final
@dataclass(frozen=True)
class NodeSettings:
    """Settings that the node decides, not the server.

    Args:
        accelerator: As a Trainer's.
        devices: As a Trainer's; one device.
        compile: Whether to compile ``training_step``.
        channels_last: Whether images and convolutions lie in memory with their channels last.
        batch_size: The number of examples in a batch of data that come without batches.
        cached_workers: The number of workers that are kept set up.
    """

    accelerator: str = "auto"
    devices: Any = 1
    compile: bool = False
    channels_last: bool = False
    batch_size: int = 32
    cached_workers: int = 1000


@final
class HostedRun:
    """Trains the workers of a node in the rounds of one run.

    Args:
        terms: The terms.
        module: The node's own module; it is copied.
        workers: Every worker's datamodule, by name.
        outbox: The steps between local training and the wire, without state.
        tables: The tables of the workers' own state.
        settings: The node's own settings.
        folder: The folder of the workers' own state in this run.

    Raises:
        RefusalError: If the module differs from the server's, or cannot be trained on this node.
    """

    def __init__(
        self,
        terms: Terms,
        module: pl.LightningModule,
        workers: Mapping[str, pl.LightningDataModule],
        outbox: Outbox,
        tables: Sequence[str],
        settings: NodeSettings,
        folder: Path,
    ) -> None:
        self.terms = terms
        self.outbox = replace(outbox, own=OwnState(tables))
        self._tables = tables
        self._workers = workers
        self._folder = folder
        self._warnings: list[str] = []
        torch.set_default_dtype(getattr(torch, terms.default_dtype))
        torch.set_float32_matmul_precision(terms.matmul_precision)
        torch.use_deterministic_algorithms(terms.deterministic)
        self.trainer_options: dict[str, Any] = {
            "accelerator": settings.accelerator,
            "devices": settings.devices,
            "precision": terms.precision,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._trainer = FarTrainer(**self.trainer_options, **terms.trainer, default_root_dir=folder)
        self.module = self._placed(deep_copy(module))
        self.rows: list[TensorRow] = rows_of(self.module, terms.frozen)
        """The rows of the module's tensors, in the run's precision."""
        if fingerprint_of(self.rows) != terms.fingerprint:
            raise RefusalError("its module is another one than the server's", module=[list(row) for row in self.rows])
        if outbox.promise is not None:
            try:
                outbox.promise.check_module(self.module)
            except ValueError as error:
                raise RefusalError(str(error)) from error
        self._pool = WorkerPool(workers, settings.cached_workers, terms.seed, settings.batch_size)
        self._pool.trainer = self._trainer
        self.engine = Sequential(settings.compile, settings.channels_last)
        self.engine.setup(self.module, self._pool, self._trainer, self.outbox)

    def _placed(self, module: pl.LightningModule) -> pl.LightningModule:
        """Prepare the module as a Trainer does before the first batch of a fit."""
        trainer = self._trainer
        trainer.state.fn = pl.trainer.states.TrainerFn.FITTING
        trainer.state.stage = pl.trainer.states.RunningStage.TRAINING
        trainer.strategy.connect(module)
        module.trainer = trainer
        trainer.strategy.setup_environment()
        self._tell(module, "setup", "fit")
        self._tell(module, "configure_model")
        module = cast(pl.LightningModule, trainer.precision_plugin.convert_module(module))
        module.to(trainer.strategy.root_device)
        module.train()
        for hook in _BEFORE_ROUNDS:
            self._tell(module, hook)
        return module

    def _tell(self, module: pl.LightningModule, hook: str, *arguments: Any) -> None:
        if not overrides(module, hook):
            return
        try:
            getattr(module, hook)(*arguments)
        except Exception as error:
            said = words_of(error, self.outbox.may_tell)
            raise RefusalError(f"{type(module).__name__}.{hook}() fails at this node: {said}") from error

    @property
    def device(self) -> torch.device:
        """The device on which workers train."""
        return self._trainer.strategy.root_device

    def train(self, worker: str, job: Job, refused: Collection[int]) -> Updates | WorkerError:
        """Train a worker, and write its own state before its update leaves.

        Args:
            worker: Its name.
            job: The job.
            refused: The numbers of cohorts in which its update did not count.
        """
        own = self.outbox.own
        try:
            self.recall(worker, job, refused)
        except ValueError as error:
            return WorkerError(worker, job.round, str(error))
        self._trainer.job = job
        with self._noting_warnings(), counting_signals(), torch.no_grad():
            (result,) = self.engine.run(job, [worker])
        if self._tables and isinstance(result, Updates):
            try:
                own.write_to(self._folder_of(worker))
            except OSError as error:
                failure = WorkerError(
                    worker,
                    job.round,
                    f"what it remembers cannot be written at its node ({describe(error)}), so its update does not "
                    "leave; make room on the node's disk",
                )
                failure.__cause__ = error
                return failure
        return result

    def evaluate(
        self,
        worker: str,
        job: Job,
        kind: Literal["val", "test", "predict"],
        limit: int | float | None,
        refused: Collection[int] = (),
        hides_failures: bool = False,
    ) -> bytes:
        """Evaluate a worker with the model of a job, or with its own: :func:`lightning_fed.node.evaluation.evaluate`.

        Args:
            worker: Its name.
            job: The job.
            kind: The kind of loaders.
            limit: The number of batches; a float: the fraction of them; None: all.
            refused: The numbers of cohorts in which its update did not count.
            hides_failures: Whether a promise also hides the failure of a prediction.
        """
        folder = self._folder_of(worker)
        try:
            own = self.recall(worker, job, refused)
        except ValueError as error:
            return encode_share(Share(failures=(WorkerError(worker, job.round, str(error)),)))
        algorithm, options = self.outbox.algorithm, {**self.trainer_options, "default_root_dir": folder}
        hides = not self.outbox.may_tell  # by the terms: the job is what the server says now
        hidden = hides, hides_failures
        return evaluate(self.module, self._workers, worker, job, kind, algorithm, own, options, limit, folder, *hidden)

    def recall(self, worker: str, job: Job, refused: Collection[int] = ()) -> OwnState:
        """Read a worker's own state after the last round that succeeded before a job.

        Args:
            worker: Its name.
            job: The job, which names the rounds that have succeeded.
            refused: The numbers of cohorts in which its update did not count.

        Raises:
            ValueError: If the own state belongs to a later round than the one from which the run resumes.
        """
        own = self.outbox.own
        if not self._tables:
            return own
        own.read_from(self._folder_of(worker))
        settled = own.settled
        if settled is not None and (job.last is None or job.last < settled):
            goes_on = "begins anew" if job.last is None else f"goes on after cohort {job.last}"
            raise ValueError(
                f"it remembers the run up to cohort {settled}, and the run {goes_on}: resume from the last "
                "checkpoint, write one after every round (ModelCheckpoint(every_n_train_steps=1, save_last=True)), or "
                "start a new run"
            )
        own.begin(job.cohort, job.last, {*job.failed, *refused})
        return own

    def _folder_of(self, worker: str) -> Path:
        return self._folder / name_of_file(worker)

    def noted(self) -> dict[str, Any]:
        """Return the remarks for the server; none where a promise hides the workers' behaviour."""
        said, self._warnings = self._warnings, []
        return self.engine.noted({}, said) if self.outbox.may_tell else {}

    @contextmanager
    def _noting_warnings(self) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            yield
        self._warnings += [str(each.message) for each in caught if not issubclass(each.category, Remark)]

    def close(self) -> None:
        """Release the workers' data and the copy of the module."""
        self._pool.clear()
        self.engine.teardown()
