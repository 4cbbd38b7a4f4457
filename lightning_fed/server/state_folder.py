"""Folder for the own state of workers that exceeds ``state_memory_mb``."""

from __future__ import annotations

from pathlib import Path
from typing import final

from lightning_fed._lightning import pl
from lightning_fed.server.processes import processes_of


@final
class StateFolder:
    """A folder with a subfolder for each process. It stays the same in a run in which user code calls ``os.chdir``.

    Args:
        given: The user's choice; None: ``lightning_fed_state`` in the Trainer's ``default_root_dir``.
    """

    def __init__(self, given: str | Path | None) -> None:
        self._given = None if given is None else Path(given).expanduser().absolute()
        self._root: Path | None = None

    def begin(self, trainer: pl.Trainer) -> None:
        """Find the folder of the run that begins.

        Args:
            trainer: The Trainer.
        """
        self._root = self._of(trainer)

    def of_process(self, trainer: pl.Trainer | None) -> Path:
        """Return the folder of this process.

        Args:
            trainer: The Trainer; None: there has been none.
        """
        return (self._root or self._of(trainer)) / f"process-{processes_of(trainer).rank}"

    def _of(self, trainer: pl.Trainer | None) -> Path:
        root = "" if trainer is None else trainer.default_root_dir
        return self._given or Path(root).absolute() / "lightning_fed_state"
