"""Writes the record of a run while it runs: a fit's rounds, and the evaluations in it and after it."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, final

from lightning_fed._lightning import pl
from lightning_fed.privacy.account import fresh_name
from lightning_fed.record import facts
from lightning_fed.record.files import EVALUATIONS, ROUNDS, RUN, Disk, plain
from lightning_fed.record.reader import VERSION, content_of
from lightning_fed.record.settings import seeds_of, settings
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.evaluation_report import EvaluationReport
from lightning_fed.server.guard import Guard
from lightning_fed.server.own_callbacks import callbacks_of, take_out
from lightning_fed.server.round_result import Round
from lightning_fed.wire.contents import Leaves
from lightning_fed.wire.report import RoundReport

MOST_IN_A_COHORT = 1000
"""The largest cohort whose workers are named in the line of a round."""
MOST_EVALUATED = 10_000
"""The largest number of workers whose metrics stand in the line of an evaluation."""


@final
class RunWriter(pl.Callback):
    """Writes the record of a run into the folder of its logger, on the first process.

    A FederatedModule puts it in by itself. Where no logger has a folder on this machine, nothing is written. The
    format is described in docs/records.md.
    """

    def __init__(self) -> None:
        self._disk: Disk | None = None
        self._run: dict[str, Any] = {}
        self._fit = ""
        self._server: pl.LightningModule | None = None  # while a fit is recorded
        self._guard: Guard | None = None
        self._began = 0.0

    def set_up(self, trainer: pl.Trainer) -> None:
        """Take part in a run.

        Args:
            trainer: The Trainer.
        """
        take_out(trainer, RunWriter)
        callbacks_of(trainer).append(self)
        self._server = self._disk = None
        folder = folder_of(trainer) if trainer.is_global_zero else None
        if folder is None:
            return
        if trainer.state.fn == "fit":
            self._disk = Disk(folder)
        elif (folder / RUN).is_file():  # what is evaluated is a run that is recorded
            self._run = _earlier(folder)
            if self._run:
                self._fit, self._disk = self._run["fits"][-1]["fit"], Disk(folder)

    def begin(self, server: pl.LightningModule, guard: Guard) -> None:
        """Begin to record a fit, which is about to run its first round.

        Args:
            server: The FederatedModule.
            guard: Says what may be shown.
        """
        if self._disk is None:
            return
        trainer, folder = server.trainer, self._disk.folder
        data: FederatedDataModule = trainer.datamodule  # type: ignore[attr-defined]
        table = settings(server, data)
        self._fit, self._server, self._guard = fresh_name(), server, guard
        fit = {"fit": self._fit, "round": trainer.global_step, "started": facts.now(), "checkpoint": trainer.ckpt_path}
        fits = [*(_earlier(folder).get("fits", ()) if trainer.global_step else ()), fit]
        self._run = {
            "version": VERSION,
            "name": _name(trainer, folder),
            "started": fits[0]["started"],
            "finished": None,
            "outcome": "running",
            "error": None,
            "fits": fits,
            **facts.of_the_program(folder),
            "settings": table,
            "seeds": seeds_of(table),
            "data": facts.of_the_data(data, guard.shows_metrics),
            "leaves": None,
            **facts.of_the_promise(guard.promise, guard.run),
        }
        self._disk.replace(RUN, self._run)

    def note(self, round: int, rounds: Sequence[Round], epoch: int) -> None:
        """Add the line of a server step.

        Args:
            round: Its number.
            rounds: Its one cohort, or several whose gradients were accumulated.
            epoch: The Trainer's epoch.
        """
        if self._disk is None or self._guard is None:
            return
        leaves = cast(Leaves | None, self._server.leaves) if self._server is not None else None
        if leaves is not None and self._run["leaves"] is None:
            self._run["leaves"] = leaves.as_json()
            self._disk.replace(RUN, self._run)
        line: dict[str, Any] = {"fit": self._fit, "round": round, "epoch": epoch}
        if self._guard.shows_metrics:
            line |= _shown(rounds)
        self._disk.add(ROUNDS, line)
        self._run["fits"][-1]["rounds"] = self._run["fits"][-1].get("rounds", 0) + 1

    def end(self, error: BaseException | None = None) -> None:
        """End the record of a fit.

        Args:
            error: What has ended it, if it did not come to its end.
        """
        server, guard, disk = self._server, self._guard, self._disk
        if server is None or guard is None or disk is None:
            return
        self._server = self._guard = None
        data: FederatedDataModule = server.trainer.datamodule  # type: ignore[attr-defined]
        self._run |= {"finished": facts.now(), "outcome": _outcome(error), "settings": settings(server, data)}
        if error is not None and guard.shows_metrics:
            self._run["error"] = f"{type(error).__name__}: {error}"
        if guard.run is not None:
            self._run["promise"]["epsilon"] = guard.run.spent
        disk.write()
        disk.replace(RUN, self._run)

    # ---- hooks -------------------------------------------------------------------------------------------------------

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write what is known."""
        self.end(exception)

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
        if self._disk is None or not self._run:
            return
        report = cast(EvaluationReport, server.last_evaluation)
        metrics = {name: float(value) for name, value in trainer._logger_connector.metrics["log"].items()}
        line = {
            "fit": self._fit,
            "round": trainer.global_step - 1,
            "epoch": trainer.current_epoch,
            "stage": stage,
            "metrics": metrics,
            **_of_workers(report, metrics),
            "seconds": time.perf_counter() - self._began,
        }
        self._disk.add(EVALUATIONS, plain(line))
        self._disk.write()
        self._run["fits"][-1]["evaluations"] = self._run["fits"][-1].get("evaluations", 0) + 1


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
        folder = logger.log_dir
        if folder is None and logger.save_dir is not None and None not in (logger.name, logger.version):
            version = logger.version
            folder = os.path.join(
                logger.save_dir, str(logger.name), version if isinstance(version, str) else f"version_{version}"
            )
        if folder is not None and "://" not in str(folder):
            return Path(folder).absolute()  # user code may change the working directory
    return None


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


def _shown(rounds: Sequence[Round]) -> dict[str, Any]:
    """Return what is recorded of a server step in which nothing is hidden."""
    report = RoundReport.merged([r.report for r in rounds])
    asked = [worker for r in rounds for worker in r.asked]
    logged = {name: part.value for r in rounds for name, (shown, part) in r.logged.items() if shown.logger}
    return {
        "size": len(asked),
        "cohort": _names(asked),
        "examples": plain(float(report.examples)),
        "loss": plain(report.loss) if report.examples else None,
        "metrics": plain(logged),
        "dropped": _names(report.dropped),
        "stragglers": _names(report.stragglers),
        "failures": [{"worker": failure.worker, "reason": failure.reason} for failure in report.failures],
        "seconds": round(sum(r.seconds for r in rounds), 6),
        "bytes_down": report.bytes_down,
        "bytes_up": report.bytes_up,
    }


def _names(workers: Sequence[str]) -> list[str] | None:
    return list(workers) if len(workers) <= MOST_IN_A_COHORT else None


def _of_workers(report: EvaluationReport, drawn: Mapping[str, float]) -> dict[str, Any]:
    """Return what is recorded of single workers: nothing that is kept from loggers, and not of too many."""
    failures = [{"worker": failure.worker, "reason": failure.reason} for failure in report.failures]
    if not report.workers or len(report.workers) > MOST_EVALUATED:
        return {"workers": None, "examples": None, "failures": failures}
    workers = {
        worker: {name: value for name, value in metrics.items() if name in drawn or _forked(name) in drawn}
        for worker, metrics in report.workers.items()
    }
    return {"workers": workers, "examples": None, "failures": failures}


def _forked(name: str) -> str:
    """Return the name under which the value of an epoch is drawn, where each step has drawn one of its own."""
    name, loader, number = name.partition("/dataloader_idx_")
    return f"{name}_epoch{loader}{number}"


def _outcome(error: BaseException | None) -> str:
    if error is None:
        return "completed"
    return "failed" if isinstance(error, Exception) else "interrupted"
