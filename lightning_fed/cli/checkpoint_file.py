"""The checkpoint of a command line, which is checked before anything runs."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import nearest
from lightning_fed.record import folder_of

_KEYS = ("state_dict", "global_step", "pytorch-lightning_version")
_NO_LAST = r'\.\w+\(ckpt_path="last"\) is set, but there is no last checkpoint available'
_WORDS = ("best", "last", "hpc", "registry")
"""Words that Lightning accepts in place of a path."""


def read_checkpoint(path: str, weights_only: bool | None = None) -> Mapping[str, Any]:
    """Read a checkpoint, as far as it is a file of this machine.

    Args:
        path: Its path. What is a word of Lightning's (``"last"``) or an address (``s3://...``) is left to Lightning.
        weights_only: Whether to refuse objects of any code; None: yes.

    Returns:
        What the checkpoint holds; nothing if it is left to Lightning.

    Raises:
        ValueError: If there is no such file, or it is not a checkpoint.
    """
    if path.partition(":")[0] in _WORDS or "://" in path:
        return {}
    file = Path(path)
    if file.is_dir():
        raise ValueError(f"ckpt_path={path} is a folder, not a checkpoint; name a .ckpt file in it")
    if not file.exists():
        beside = [str(found) for found in file.parent.glob("*.ckpt")] if file.parent.is_dir() else []
        raise ValueError(f"ckpt_path={path}: there is no such file{nearest(path, [*beside, *_WORDS])}")
    if file.stat().st_size == 0:
        raise ValueError(f"ckpt_path={path} is an empty file, not a checkpoint; take an earlier one")
    try:
        checkpoint = torch.load(
            path, map_location="cpu", weights_only=weights_only is not False, mmap=zipfile.is_zipfile(path)
        )
    except OSError as error:
        # Without a file's name it is torch's reader, of an archive without an end.
        says = _no_checkpoint(path) if error.filename is None else f"ckpt_path={path} cannot be read: {error.strerror}"
        raise ValueError(says) from error
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error):
            raise ValueError(
                f"ckpt_path={path} holds objects of program code, which may do anything when they are loaded; if you "
                "trust its origin, give --weights_only=false"
            ) from error
        raise ValueError(_no_checkpoint(path)) from error
    except Exception as error:  # torch raises many kinds for a file that is damaged or none of its own
        raise ValueError(_no_checkpoint(path)) from error
    for key in _KEYS:
        if not isinstance(checkpoint, Mapping) or key not in checkpoint:
            raise ValueError(f"ckpt_path={path} is no checkpoint of a Trainer: it has no {key}")
    return dict(checkpoint)


@contextmanager
def last_is_found(trainer: pl.Trainer) -> Iterator[None]:
    """Context in which ``ckpt_path="last"`` without a last checkpoint is refused; Lightning goes on from nothing.

    Args:
        trainer: The Trainer.

    Raises:
        ValueError: If there is none; the message names the newest of the runs beside this one.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("error", _NO_LAST)
        try:
            yield
        except UserWarning as warning:
            if re.match(_NO_LAST, str(warning)) is None:
                raise
            newest = max(_beside(trainer), key=lambda path: path.stat().st_mtime, default=None)
            says = "" if newest is None else f"; the newest of its neighbours is --ckpt_path {newest}"
            raise ValueError(f"ckpt_path=last: this run has no last checkpoint; give the path of one{says}") from None


def _beside(trainer: pl.Trainer) -> Iterator[Path]:
    """The checkpoints of all runs in the folder in which this one lies."""
    folder = folder_of(trainer) if trainer.is_global_zero else None
    if folder is not None:
        for path in folder.parent.glob("*/checkpoints/*.ckpt"):
            yield path.relative_to(Path.cwd()) if Path.cwd() in path.parents else path


def _no_checkpoint(path: str) -> str:
    return f"ckpt_path={path} is no checkpoint, or a damaged one; take an earlier one, or write it anew"
