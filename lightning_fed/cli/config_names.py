"""Names of runs by the config files that they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

NAME = "lightning_fed"
"""The name of runs of no config."""
_RECORD = "run.json"  # as in record/, which imports torch


def name_of(configs: Sequence[str]) -> str:
    """Return the name for the runs of some config files: their own names, without folder and ending.

    Args:
        configs: Their paths; a config that a run has left in its folder counts as that of the run. YAML in the command
            itself has no name.

    >>> name_of(["experiments/digits.yaml", "configs/fair.yaml"]), name_of([])
    ('digits+fair', 'lightning_fed')
    >>> name_of(["toy", "{trainer: {max_epochs: 1}}"])
    'toy'
    """
    return "+".join(_stem(Path(path)) for path in configs if not is_yaml_itself(path)) or NAME


def is_yaml_itself(path: str) -> bool:
    """Whether what is given for a path is YAML: it begins with a brace, or has several lines."""
    return path.lstrip().startswith("{") or "\n" in path


def _stem(path: Path) -> str:
    path = path.absolute()
    return path.parent.parent.name if (path.parent / _RECORD).is_file() else path.stem
