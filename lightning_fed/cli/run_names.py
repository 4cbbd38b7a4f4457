"""The folder of a run of the command line: ``logs/<config>/<algorithm>-<number>``, unless the user names another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fed._lightning import TensorBoardLogger, pl
from lightning_fed.cli.config_names import NAME, name_of
from lightning_fed.record.names import next_version

LOGGER = {
    "class_path": f"{pl.__name__}.loggers.TensorBoardLogger",
    "init_args": {"save_dir": "logs", "name": NAME, "default_hp_metric": False},
}
"""The logger of a command that names none."""


def logger_of(given: Mapping[str, Any], configs: Sequence[str], run: str) -> TensorBoardLogger | None:
    """Return the logger with the run's name.

    Args:
        given: The logger's class and arguments in the config of the run.
        configs: The paths of the config files, as the user wrote them.
        run: What the run's name begins with: the algorithm, and what is done where that is no training.

    Returns:
        The logger; None: the user has named the run, or has another logger, and has it as it is.
    """
    arguments = dict(given.get("init_args") or {})
    is_ours = given.get("class_path") == LOGGER["class_path"] and arguments.get("name") == NAME
    if not is_ours or arguments.get("version") is not None or "://" in str(arguments["save_dir"]):
        return None
    name = name_of(configs)
    folder = Path(os.path.expandvars(arguments["save_dir"])).expanduser() / name
    return TensorBoardLogger(**{**arguments, "name": name, "version": next_version(folder, run)})
