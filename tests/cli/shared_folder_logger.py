"""A logger such as W&B's, with a folder that all runs share and no ``log_dir``."""

from __future__ import annotations

from typing import Any

from pytorch_lightning.loggers import Logger


class SharedFolderLogger(Logger):
    """Logs nothing.

    Args:
        id: The run's.
    """

    def __init__(self, id: str = "none") -> None:
        super().__init__()
        self._id = id

    name = "project"
    save_dir = "all"

    @property
    def version(self) -> str:
        return self._id

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Do nothing."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing."""
