"""The checkpoint that a command line names: refused before anything runs, if it is none."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from lightning_fed.core.arguments import nearest

_KEYS = ("state_dict", "global_step", "pytorch-lightning_version")
_WORDS = ("best", "last", "hpc", "registry")
"""Words that Lightning takes in place of a path."""


def read_checkpoint(path: str, weights_only: bool | None = None) -> Mapping[str, Any]:
    """Read a checkpoint, as far as it is a file of this machine.

    Args:
        path: Its path. What is a word of Lightning's (``"last"``) or an address (``s3://...``) is left to Lightning.
        weights_only: Whether to refuse objects of any code; None: yes.

    Returns:
        What the checkpoint holds; nothing if it is left to Lightning.

    Raises:
        ValueError: If there is no such file, or it is no checkpoint.
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


def _no_checkpoint(path: str) -> str:
    return f"ckpt_path={path} is no checkpoint, or a damaged one; take an earlier one, or write it anew"
