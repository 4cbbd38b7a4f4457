"""Writer of the record of a run: a fit's rounds, and the evaluations in it and after it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast, final

from lightning_fed._lightning import Logger, pl
from lightning_fed.privacy.account import fresh_name
from lightning_fed.record import facts
from lightning_fed.record.arguments import Scalar
from lightning_fed.record.files import EVALUATIONS, ROUNDS, RUN, Disk, plain
from lightning_fed.record.finals import Finals
from lightning_fed.record.hparams import HParamsLog
from lightning_fed.record.lines import drawn_of, of_a_round, of_an_evaluation
from lightning_fed.record.origin import fit_of
from lightning_fed.record.reader import VERSION, content_of
from lightning_fed.record.settings import hyperparameters, seeds_of, settings
from lightning_fed.server.datamodule import data_of
from lightning_fed.server.evaluation.report import EvaluationReport
from lightning_fed.server.guard import Guard
from lightning_fed.server.own_callbacks import put_first
from lightning_fed.server.readable import Readable
from lightning_fed.server.round_result import StepResult


@final
class RunWriter(pl.Callback):
    """Writes the record of a run into the folder of its logger, and its hyperparameters into all loggers.

    A FederatedModule adds this callback itself. It writes on the first process only, and no files if no logger has a
    folder on this machine. The format is described in docs/records.md.
    """

    def __init__(self) -> None:
        self._disk: Disk | None = None
        self._run: dict[str, Any] = {}
        self._fit = ""
        self._server: Readable | None = None  # while a fit is recorded
        self._guard: Guard | None = None
        self._loaded: int | None = None  # the epoch of the checkpoint that is evaluated
        self._began = 0.0
        self._hparams = HParamsLog()
        self._finals = Finals()

    def set_up(self, trainer: pl.Trainer) -> None:
        """Take part in a run.

        Args:
            trainer: The Trainer.
        """
        put_first(trainer, self)  # before callbacks that write checkpoints, which hold this state
        self._server = self._guard = self._disk = None
        if not trainer.is_global_zero:
            return
        self._hparams.hold_back(trainer)
        folder = folder_of(trainer)
        if folder is None:
            return
        if trainer.state.fn == "fit":
            self._disk, self._loaded = Disk(folder), None
        elif run := _earlier(folder):  # the evaluated model belongs to a recorded run
            self._run, self._fit, self._disk = run, run["fits"][-1]["fit"], Disk(folder)

    def so_far(self) -> dict[str, Any]:
        """Return the final values so far, for a checkpoint."""
        return self._finals.state_dict()

    def go_on(self, so_far: Mapping[str, Any] | None) -> None:
        """Restore a checkpoint.

        Args:
            so_far: The result of :meth:`so_far`; None: the checkpoint is of an older version.
        """
        self._finals = Finals()
        if so_far is not None:
            self._finals.load_state_dict(so_far)

    def load(self, epoch: int | None) -> None:
        """Record that the model is that of a checkpoint, which is to be evaluated.

        Args:
            epoch: The epoch in which it was written; None: it does not say.
        """
        self._loaded = epoch

    def begin(self, server: Readable, guard: Guard) -> None:
        """Begin to record a fit, which is about to run its first round.

        Args:
            server: The FederatedModule.
            guard: Says what may be shown.
        """
        trainer = server.trainer
        if not trainer.is_global_zero:
            return
        self._fit, self._server, self._guard = fresh_name(), server, guard
        if not trainer.global_step:
            self._finals = Finals()
        self._finals.begin()  # also without a logger: a fit that goes on from its checkpoint may have one
        if not trainer.loggers:
            return
        data = data_of(trainer)
        self._hparams.begin(trainer, {**hyperparameters(server, data), **data.hparams_initial})
        if self._disk is not None:
            self._run = self._content(server, settings(server, data), guard)
            self._disk.replace(RUN, self._run)

    def _content(self, server: Readable, table: Mapping[str, Scalar], guard: Guard) -> dict[str, Any]:
        """Return the content of ``run.json`` for a fit that begins; one that goes on here adds itself to the fits."""
        assert self._disk is not None
        trainer, folder, started = server.trainer, self._disk.folder, facts.now()
        checkpoint = _whole_path(trainer.ckpt_path)
        fit = {"fit": self._fit, "round": trainer.global_step, "started": started, "checkpoint": checkpoint}
        fit["from_fit"] = fit_of(checkpoint)
        earlier = _earlier(folder).get("fits", []) if trainer.global_step else []
        return {
            "version": VERSION,
            "name": _name(trainer, folder),
            "started": earlier[0]["started"] if earlier else started,
            "finished": None,
            "outcome": "running",
            "error": None,
            "fits": [*earlier, fit],
            **facts.of_the_program(folder, () if guard.shows_metrics else data_of(trainer).names),
            "settings": table,
            "seeds": seeds_of(table),
            "data": facts.of_the_data(data_of(trainer), guard.shows_metrics),
            "leaves": None,
            **facts.of_the_promise(guard.promise, guard.run, folder),
        }

    def note(self, round: int, result: StepResult, epoch: int) -> None:
        """Add the line of a server step.

        Args:
            round: Its number.
            result: What came of it.
            epoch: The Trainer's epoch.
        """
        if self._guard is None:
            return
        shows = self._guard.shows_metrics
        if shows:
            self._finals.add_round(result.loss if result.examples else None, sum(result.traffic))
        if self._disk is not None:
            self._note_leaves(self._disk)
            line = {"fit": self._fit, "round": round, "epoch": epoch}
            self._disk.add(ROUNDS, {**line, **(of_a_round(result) if shows else {})})
            self._count("rounds")

    def _note_leaves(self, disk: Disk) -> None:
        """Note what leaves each worker, which the first round of a fit has shown."""
        leaves = None if self._server is None else self._server.leaves
        if leaves is not None and self._run["leaves"] is None:
            self._run["leaves"] = leaves.as_json()
            disk.replace(RUN, self._run)

    def _count(self, lines: str) -> None:
        """Count the lines of a fit, so that a reader finds that some are missing."""
        fit = self._run["fits"][-1]
        fit[lines] = fit.get(lines, 0) + 1

    def end(self, error: BaseException | None = None) -> None:
        """End the record of a fit.

        Args:
            error: What has ended it, if it did not come to its end.
        """
        server, guard = self._server, self._guard
        if server is None or guard is None:
            return
        self._server = self._guard = None
        epsilon = None if guard.run is None else guard.run.spent
        self._finals.end()
        self._hparams.end(server.trainer, self._finals.values(epsilon), failed=error is not None)
        if self._disk is None:
            return
        # What was open is settled now; all else may hold what the fit has counted, which is no setting.
        now, before = settings(server, data_of(server.trainer)), self._run["settings"]
        table = {name: now.get(name) if value is None else value for name, value in before.items()}
        self._run |= {"finished": facts.now(), "outcome": _outcome(error), "settings": table}
        if error is not None and guard.shows_metrics:
            self._run["error"] = f"{type(error).__name__}: {error}".removesuffix(": ")
        if epsilon is not None:
            self._run["promise"]["epsilon"] = epsilon
        self._disk.write()
        self._disk.replace(RUN, self._run)

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Detach from the run before; a FederatedModule attaches itself in its own ``setup``, which comes later."""
        self._server = self._guard = self._disk = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what there is."""
        self._hparams.give_back(trainer)
        self.end(exception)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave the loggers as they were."""
        self._hparams.give_back(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the loggers as they were: Lightning has logged hyperparameters."""
        self._hparams.give_back(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Write the lines of all rounds that the checkpoint holds."""
        if self._disk is not None:
            self._disk.write()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self._began = time.perf_counter()

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note the time."""
        self._began = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line of an evaluation."""
        if not trainer.sanity_checking:
            self._evaluated(trainer, pl_module, "val" if trainer.state.fn == "fit" else "validate")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the line of an evaluation."""
        self._evaluated(trainer, pl_module, "test")

    def _evaluated(self, trainer: pl.Trainer, server: pl.LightningModule, stage: str) -> None:
        if self._guard is None and (self._disk is None or stage == "val"):  # a search for a learning rate is no fit
            return
        report = cast(EvaluationReport, server.last_evaluation)
        metrics = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
        workers = drawn_of(report, metrics)
        line = {
            "fit": self._fit,
            "round": -1 if report.round is None else report.round,
            "epoch": trainer.current_epoch if self._loaded is None else self._loaded,
            "stage": stage,
            "metrics": plain(metrics),
            **of_an_evaluation(report, workers),
            "seconds": round(time.perf_counter() - self._began, 6),
        }
        if stage == "val":
            self._finals.add_evaluation(metrics, workers)
        if self._disk is not None:
            self._disk.add(EVALUATIONS, line)
            self._disk.write()
            self._count("evaluations")


def folder_of(trainer: pl.Trainer) -> Path | None:
    """Return the folder of a run: that of the first logger that has one on this machine; None: there is none.

    A logger that says nothing about a folder of the run has the one in which Lightning puts its checkpoints:
    ``save_dir/name/version``. To be called on the first process only.

    Args:
        trainer: The Trainer.
    """
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        return None
    for logger in trainer.loggers:
        folder = folder_of_logger(logger)
        if folder is not None and "://" not in str(folder):
            return Path(folder).absolute()  # user code may change the working directory
    return None


def folder_of_logger(logger: Logger) -> str | None:
    """Return the folder, or the address, that a logger has for a run; None: it has none.

    Args:
        logger: The logger.
    """
    folder: str | None = logger.log_dir
    if folder is None and logger.save_dir is not None and None not in (logger.name, logger.version):
        version = logger.version if isinstance(logger.version, str) else f"version_{logger.version}"
        return os.path.join(logger.save_dir, str(logger.name), version)
    return folder


def _name(trainer: pl.Trainer, folder: Path) -> str:
    """Return the name of a run: its folder below that in which its logger puts all runs."""
    for logger in trainer.loggers:
        root = None if logger.save_dir is None else Path(logger.save_dir).absolute()
        if root is not None and root in folder.parents:
            return folder.relative_to(root).as_posix()
    return folder.name


def _earlier(folder: Path) -> dict[str, Any]:
    """Return what a folder's ``run.json`` holds; nothing if it cannot be read."""
    try:
        return content_of(folder / RUN)
    except (OSError, ValueError):
        return {}


def _whole_path(path: str | Path | None) -> str | None:
    """Return a path that means the same from any working directory."""
    return None if path is None else str(path) if "://" in str(path) else str(Path(path).absolute())


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "completed"
    return "failed" if isinstance(error, Exception) else "interrupted"
