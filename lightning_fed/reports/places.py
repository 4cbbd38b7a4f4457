"""The folders of the runs of a comparison, found before torch is imported, which is slow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

RUN = "run.json"  # not from the record's room, which imports torch


def runs_below(folders: Sequence[str | Path]) -> list[Path]:
    """Find the folders of runs in folders and below them, in the order of the folders.

    Args:
        folders: The folders.

    Raises:
        FileNotFoundError: If there is no record in one of them.
    """
    found: dict[str, Path] = {}
    for given in map(Path, folders):
        folder = given.parent if given.name == RUN else given
        below = [folder] if (folder / RUN).is_file() else sorted(path.parent for path in folder.rglob(RUN))
        if not below:
            raise FileNotFoundError(
                f"{folder}: there is no record of a run in it or below it, which a fit with a logger leaves in the "
                "logger's folder; give folders such as logs/digits"
                if folder.is_dir()
                else f"there is no folder {folder}; give folders of runs, such as logs/digits"
            )
        for path in below:
            found.setdefault(os.path.realpath(path), path)
    return list(found.values())
