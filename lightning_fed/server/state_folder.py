"""Where the own state of workers lies past the memory for it."""

from __future__ import annotations

from pathlib import Path
from typing import final

from lightning_fed._lightning import pl
from lightning_fed.server.processes import processes_of


@final
class StateFolder:
    """A folder with one of each process in it, which is the same to the end of a run whatever folder user code enters.

    Args:
        given: The user's choice; None: ``lightning_fed_state`` in the Trainer's ``default_root_dir``.
    """

    def __init__(self, given: str | Path | None) -> None:
        self._given = None if given is None else Path(given).expanduser().absolute()
        self._root: Path | None = None

    def begin(self, trainer: pl.Trainer) -> None:
        """Settle where it is for the run that begins.

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
