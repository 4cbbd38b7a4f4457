"""The config of a run, which lies in the run's own folder, beside the record."""

from __future__ import annotations

import os
from typing import Any, final

from fsspec.core import url_to_fs  # type: ignore[import-untyped]
from typing_extensions import override

from lightning_fed._lightning import LightningArgumentParser, SaveConfigCallback, pl
from lightning_fed.record import folder_of


@final
class SaveConfig(SaveConfigCallback):
    """Writes the config where the record is.

    Lightning's writes it to ``trainer.log_dir``, which for loggers such as W&B's is a folder that all runs share.

    Args:
        parser: The parser of the command line.
        config: What it has parsed.
        save_to_log_dir: Whether to write the file at all.
        **options: The other arguments of SaveConfigCallback.
    """

    def __init__(
        self, parser: LightningArgumentParser, config: Any, save_to_log_dir: bool = True, **options: Any
    ) -> None:
        self._is_saved = save_to_log_dir
        super().__init__(parser, config, save_to_log_dir=False, **options)

    @override
    def save_config(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write the file; on the first process only.

        Raises:
            RuntimeError: If there is one, and it may not be replaced.
        """
        if not self._is_saved:
            return
        folder = str(folder_of(trainer) or _folder_of_all(trainer))
        path, files = os.path.join(folder, self.config_filename), url_to_fs(folder)[0]
        if not self.overwrite and files.isfile(path):
            raise RuntimeError(f"{path} is the config of an earlier run and is not replaced; give the run another name")
        files.makedirs(folder, exist_ok=True)
        self.parser.save(self.config, path, skip_none=False, overwrite=self.overwrite, multifile=self.multifile)


def _folder_of_all(trainer: pl.Trainer) -> Any:
    """The folder of runs that have none of their own; not ``trainer.log_dir``, for which all processes must meet."""
    places = [logger.log_dir or logger.save_dir for logger in trainer.loggers[:1]]
    return next(filter(None, places), trainer.default_root_dir)
