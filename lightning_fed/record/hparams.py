"""Hyperparameters in loggers: the settings at the start of a fit, and the final values of the run.

TensorBoard's HPARAMS tab shows a run whose event file has the start and the end of a session. The columns come from the
first *experiment* in any run, so different settings of other runs are missing; without an experiment, the columns are
all settings and scalars of all runs, those that differ first. So no experiment is written here, and Lightning's own
placeholder (``default_hp_metric``), which is one, is withheld.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

from lightning_fed._lightning import TensorBoardLogger, pl, rank_zero_warn, save_hparams_to_yaml
from lightning_fed.record.described import described
from lightning_fed.wire import describe


@final
class HParamsLog:
    """Logs hyperparameters that are unknown when Lightning logs them, and final values to every TensorBoardLogger."""

    def __init__(self) -> None:
        self._held_back: list[TensorBoardLogger] = []

    def hold_back(self, trainer: pl.Trainer) -> None:
        """Withhold Lightning's placeholder from event files, where it would determine the columns of all runs.

        Args:
            trainer: The Trainer, which is about to log hyperparameters.
        """
        self._held_back = [logger for logger in _tensorboards(trainer) if logger._default_hp_metric]
        for logger in self._held_back:
            logger._default_hp_metric = False

    def give_back(self, trainer: pl.Trainer) -> None:
        """Undo :meth:`hold_back`, and log the placeholder's value as a curve.

        Args:
            trainer: The Trainer, which has logged hyperparameters.
        """
        loggers, self._held_back = self._held_back, []
        for logger in loggers:
            logger._default_hp_metric = True
            if trainer.state.fn == "fit" and _is_wanted(trainer):
                logger.log_metrics({"hp_metric": -1})

    def begin(self, trainer: pl.Trainer, hyperparameters: Mapping[str, Any]) -> None:
        """Log all hyperparameters once the fit has begun.

        Args:
            trainer: The Trainer.
            hyperparameters: The hyperparameters of the user's module and of the package.
        """
        if not _is_wanted(trainer):
            return
        for logger in trainer.loggers:
            try:
                if isinstance(logger, TensorBoardLogger):
                    _begin_session(logger, hyperparameters)
                else:
                    logger.log_hyperparams(dict(hyperparameters))
            except Exception as error:  # the run does not depend on it
                rank_zero_warn(f"{type(logger).__name__} did not take all hyperparameters: {describe(error)}")

    def end(self, trainer: pl.Trainer, values: Mapping[str, float], failed: bool) -> None:
        """Log final values, and end the session.

        Args:
            trainer: The Trainer.
            values: The values by name.
            failed: Whether an error has ended the run.
        """
        if not _is_wanted(trainer):
            return
        for logger in _tensorboards(trainer):
            try:
                if trainer.log_every_n_steps:  # type: ignore[attr-defined]  # 0: nothing is to be drawn
                    logger.log_metrics(dict(values), step=max(trainer.global_step - 1, 0))
                if not failed:  # TensorBoard shows a session without an end as one whose state is unknown
                    _end_session(logger)
            except Exception as error:
                rank_zero_warn(f"{type(logger).__name__} did not take the final values: {describe(error)}")


def _is_wanted(trainer: pl.Trainer) -> bool:
    return bool(vars(trainer).get("enable_autolog_hparams", True))  # Lightning 2.5 has no such switch


def _tensorboards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _begin_session(logger: TensorBoardLogger, hyperparameters: Mapping[str, Any]) -> None:
    logger.hparams.update(hyperparameters)
    file = Path(logger.log_dir) / logger.NAME_HPARAMS_FILE
    if "://" not in str(logger.log_dir) and file.parent.is_dir():
        save_hparams_to_yaml(file, dict(logger.hparams))  # the earlier file lacks settings that were not decided yet
    rows = {name: row for key, value in hyperparameters.items() for name, row in described(key, value).items()}
    _, start, _ = _hparams()(rows, {})
    _write(logger, start)


def _end_session(logger: TensorBoardLogger) -> None:
    _, _, end = _hparams()({}, {})
    _write(logger, end)


def _hparams() -> Any:
    from torch.utils.tensorboard.summary import hparams  # not above: the import is slow, and not every run requires it

    return hparams


def _write(logger: TensorBoardLogger, summary: Any) -> None:
    logger.experiment._get_file_writer().add_summary(summary)
    logger.experiment.flush()
