"""Reading and writing of a Trainer's checkpoints: atomic, recorded, and with errors that name the file."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, final

import torch

from lightning_fed._lightning import CheckpointIO as LightningCheckpointIO
from lightning_fed._lightning import TorchCheckpointIO, pl
from lightning_fed.server.checkpoint.format import KEY
from lightning_fed.state import StateFolder, free_space, write_whole

_DAMAGES = (RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile, KeyError, ValueError)
"""Errors that torch raises for a file that is none of its own, or not as it was written."""


@final
class CheckpointIO(LightningCheckpointIO):
    """Checkpoint plugin that wraps the Trainer's own, and records each checkpoint's files of workers' state.

    Unless the user has a plugin, a file on a local disk is written next to its final path, and renamed when it is
    complete. An overwritten checkpoint, such as ``last.ckpt``, therefore exists at every moment, even if temporary
    folder and checkpoints are on different disks.

    Args:
        behind: The Trainer's own plugin.
        folder: The folder of the workers' state.
    """

    def __init__(self, behind: LightningCheckpointIO, folder: StateFolder) -> None:
        self._behind = behind
        self.folder = folder

    @staticmethod
    def attach(trainer: pl.Trainer, folder: StateFolder) -> None:
        """Make a Trainer write and read its checkpoints through this plugin.

        Args:
            trainer: The Trainer.
            folder: The folder of the workers' state.
        """
        there = trainer.strategy.checkpoint_io
        if isinstance(there, CheckpointIO):
            there.folder = folder
        else:
            trainer.strategy.checkpoint_io = CheckpointIO(there, folder)

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: If it cannot be written; an existing file is kept.
        """
        name = os.fspath(path)
        state = checkpoint.get(KEY, {}).get("state", {})
        files = [file for table in state.get("workers", {}).values() for file in table["files"]]
        if files:
            root = state["files"]["root"]
            state["files"]["from_here"] = os.path.relpath(root, os.path.dirname(os.path.abspath(name)))
        self.folder.placing(name, [Path(file).name for file in files])
        try:
            if type(self._behind) is TorchCheckpointIO and "://" not in name and storage_options is None:
                Path(name).parent.mkdir(parents=True, exist_ok=True)
                write_whole(Path(name), lambda unfinished: _save(checkpoint, unfinished))
            else:
                self._behind.save_checkpoint(checkpoint, path, storage_options)
        except OSError as error:
            raise OSError(
                f"the checkpoint {name} could not be written ({error}; {free_space(Path(name).parent)}); the "
                "checkpoints before it are as they were: make room, and go on from the last of them"
            ) from error
        self.folder.placed()

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ValueError: If the file is damaged, or no checkpoint.
        """
        given = {} if map_location is None else {"map_location": map_location}
        checkpoint = read_checkpoint(path, self._behind, weights_only=weights_only, **given)
        if isinstance(checkpoint.get(KEY), dict):
            checkpoint[KEY]["found_at"] = os.path.abspath(path)
        return checkpoint

    def remove_checkpoint(self, path: str | Path) -> None:
        """Delete a checkpoint, and the workers' state to which no other checkpoint refers."""
        self.folder.leaving(os.fspath(path))
        self._behind.remove_checkpoint(path)
        self.folder.left()

    def teardown(self) -> None:
        """Tear down the Trainer's own plugin."""
        self._behind.teardown()
        self.folder.placed()


def read_checkpoint(
    path: str | Path, behind: LightningCheckpointIO | None = None, *, weights_only: bool | None = None, **options: Any
) -> dict[str, Any]:
    """Read a checkpoint of any Trainer.

    Args:
        path: The file.
        behind: The plugin that reads it; None: Lightning's own, with all tensors on the CPU.
        weights_only: Whether to refuse content that may execute code when it is read; None: torch's default.
        options: Further arguments of the plugin.

    Returns:
        The content of the checkpoint.

    Raises:
        ValueError: If the file is damaged, or no checkpoint.
    """
    refuse_damaged(path)
    reader = TorchCheckpointIO() if behind is None else behind
    if weights_only is not None:  # Lightning 2.5 has no such argument
        options["weights_only"] = weights_only
    try:
        checkpoint: Any = reader.load_checkpoint(path, **options)
    except (*_DAMAGES, OSError) as error:
        if isinstance(error, FileNotFoundError) or (isinstance(error, OSError) and error.filename is not None):
            raise  # it cannot be opened; torch's own reader says "Invalid argument" of an archive without an end
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error) and zipfile.is_zipfile(path):
            raise  # it is whole, and has more in it than numbers: torch says what, and how to allow it
        raise damaged(path, error) from error
    if not isinstance(checkpoint, dict):
        raise damaged(path, f"it holds a {type(checkpoint).__name__}")
    for key in ("state_dict", "pytorch-lightning_version"):
        if key not in checkpoint:
            raise damaged(path, f"it has no {key!r}, so no Trainer wrote it")
    return checkpoint


def refuse_damaged(path: str | Path) -> None:
    """Refuse an archive with changed bytes, which torch itself would read.

    Args:
        path: The file. A file that is missing, not on a local disk, or no archive is left to torch.

    Raises:
        ValueError: If it is damaged.
    """
    if zipfile.is_zipfile(path) and _has_checksums():
        try:
            with zipfile.ZipFile(path) as archive:
                bad = archive.testzip()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise damaged(path, error) from error
        if bad is not None:
            raise damaged(path, f"{bad} in it does not have its checksum")


def _has_checksums() -> bool:
    """Whether torch writes checksums; before torch 2.6 it always does."""
    asked: Callable[[], bool] = getattr(torch.serialization, "get_crc32_options", lambda: True)
    return asked()


def damaged(path: str | Path, reason: object) -> ValueError:
    """Return the error about a file that is no checkpoint.

    Args:
        path: The file.
        reason: The reason.
    """
    size = os.path.getsize(path) if os.path.isfile(path) else None
    what = "is empty" if size == 0 else f"is damaged, or no checkpoint ({str(reason).splitlines()[0]})"
    return ValueError(f"the checkpoint {os.fspath(path)} {what}; go on from another one")


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:  # torch's own writer does not say why it fails
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # of ending a file that the disk has refused
                raise error.__context__ from None
            raise
