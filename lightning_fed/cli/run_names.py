"""The folder of a run of the command line: ``logs/<config>/<algorithm>-<number>``, unless the user names another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any

from lightning_fed._lightning import Logger, pl
from lightning_fed.cli.config_names import NAME, name_of
from lightning_fed.lightning_cli import imported
from lightning_fed.record.names import next_version

LOGGER = {
    "class_path": f"{pl.__name__}.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "logs", "name": NAME, "default_hp_metric": False},
}
"""The logger of a command that names none."""


_OF_A_START = ("config.yaml", "hparams.yaml", "events.out.tfevents.*")
"""Files that a command writes before a fit has begun."""


def logger_of(given: Mapping[str, Any], configs: Sequence[str], run: str) -> Logger | None:
    """Return the logger with the run's name.

    Args:
        given: The logger's class and arguments in the config of the run.
        configs: The paths of the config files, as the user wrote them.
        run: What the run's name begins with: the algorithm, and what is done where that is no training.

    Returns:
        The logger; None: the user has named the run, or has a logger that has no folder of its own for each run.
    """
    arguments = {**(given.get("init_args") or {}), **(given.get("dict_kwargs") or {})}
    kind = imported(given.get("class_path"))
    save_dir = arguments.get("save_dir")
    if not (isinstance(kind, type) and issubclass(kind, Logger) and _has_folders(kind)) or save_dir is None:
        return None
    is_named = arguments.get("name") not in (NAME, signature(kind).parameters["name"].default)
    if is_named or arguments.get("version") is not None or "://" in str(save_dir):
        return None
    name = name_of(configs)
    folder = Path(os.path.expandvars(save_dir)).expanduser() / name
    return kind(**{**arguments, "name": name, "version": next_version(folder, run)})


def _has_folders(kind: type[Logger]) -> bool:
    """Whether each run of a logger has the folder ``save_dir/name/version``."""
    return kind.log_dir is not Logger.log_dir and {"save_dir", "name", "version"} <= set(signature(kind).parameters)


def take_back(folder: Path) -> None:
    """Remove the folder of a run that has not begun, so that none is left without a record and a number is not lost.

    Args:
        folder: The folder, which the command has named.
    """
    try:
        files = list(folder.iterdir())
        if all(file.is_file() and any(file.match(name) for name in _OF_A_START) for file in files):  # else it has begun
            for file in files:
                file.unlink()
            folder.rmdir()
    except OSError:  # it was not made yet; or it stays, as it can be read by nobody
        return
