"""The config of a run by the command line, as a flat table without settings that do not affect results."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import yaml

Scalar: TypeAlias = "str | int | float | bool | None"

_NOWHERE = (
    "ckpt_path",
    "weights_only",
    "trainer.logger",
    "trainer.default_root_dir",
    "trainer.enable_progress_bar",
    "trainer.enable_model_summary",
    "trainer.num_sanity_val_steps",
)
"""Sections about the output of a run."""
_PLACES = ("dirpath", "filename")
"""Arguments of callbacks about the output of a run."""

_DATA = ("data.workers", "data.val", "data.test", "trainer.limit_val_batches", "trainer.limit_test_batches")


def config_of(path: Path) -> dict[str, Scalar] | None:
    """Return the settings of a config, without seeds and places; None if there is none that can be read.

    Args:
        path: The file.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None
    return flat(content) if isinstance(content, Mapping) else None


def flat(config: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return the settings of a config by their paths, without seeds and places.

    Args:
        config: Its sections.

    >>> flat({"seed_everything": 3, "model": {"hidden": [64, 32], "local_epochs": 2}, "ckpt_path": None})
    {'model.hidden': '[64, 32]', 'model.local_epochs': 2}
    """
    return {
        path: value
        for path, value in _leaves(config, "")
        if not is_seed(path) and not _is_below(path, _NOWHERE) and path.rpartition(".")[2] not in _PLACES
    }


def is_seed(name: str) -> bool:
    """Whether a setting is a seed.

    >>> is_seed("seed_everything"), is_seed("partition/seed"), is_seed("data.seed"), is_seed("seeds_per_pot")
    (True, True, True, False)
    """
    return name.replace("/", ".").rpartition(".")[2] in ("seed", "seed_everything")


def about_data(path: str) -> bool:
    """Whether a setting of a config is about the data, their partition, or the evaluation.

    Args:
        path: The setting's path.
    """
    inner = path.rpartition(".")[2]
    return _is_below(path, _DATA) and inner != "batch_size"


def _is_below(path: str, sections: tuple[str, ...]) -> bool:
    return any(path == section or path.startswith(f"{section}.") for section in sections)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, Mapping) and value:
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list) and any(isinstance(part, (Mapping, list)) for part in value):
        parts = [(str(position), part) for position, part in enumerate(value)]
    else:
        yield path, value if value is None or isinstance(value, (str, int, float, bool)) else json.dumps(value)
        return
    for key, part in parts:
        yield from _leaves(part, f"{path}.{key}" if path else key)
