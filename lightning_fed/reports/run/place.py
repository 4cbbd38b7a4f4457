"""The place of a run's record: a folder, a checkpoint in it, or a folder that holds exactly one run."""

from __future__ import annotations

from pathlib import Path

RUN = "run.json"  # not from the record's room, which imports torch: a wrong place is refused before that


def record_at(path: Path) -> tuple[Path, Path | None]:
    """Find the folder of a run's record.

    Args:
        path: The run's folder or its ``run.json``; a checkpoint; or a folder with exactly one run in it or below it.

    Returns:
        The folder, and the checkpoint if it is one.

    Raises:
        ValueError: If there is no run, or there are several; the message names them.
    """
    if not path.exists():
        raise ValueError(f"{path} does not exist; give a run's folder, such as logs/toy/FedAvg-0")
    if path.name == RUN:
        return path.parent, None
    if path.is_file():
        return _around(path), path
    if (path / RUN).is_file():
        return path, None
    below = sorted(found.parent for found in path.rglob(RUN))
    if len(below) == 1:
        return below[0], None
    if below:
        some = ", ".join(map(str, below[:8]))
        more = f" and {len(below) - 8} more" if len(below) > 8 else ""
        raise ValueError(f"there are {len(below)} runs in {path}; give one of {some}{more}")
    if any(path.glob("*.ckpt")):
        return _around(path), None
    raise ValueError(
        f"there is no record of a run in {path}: it has no {RUN}, which a fit writes into the folder of the first "
        "logger that has one"
    )


def _around(path: Path) -> Path:
    """The nearest of the folders around a file or folder that has a record, at most three steps away."""
    for folder in path.absolute().parents[:3]:
        if (folder / RUN).is_file():
            return folder
    raise ValueError(
        f"there is no record of a run around {path}: no folder above it has a {RUN}; give the run's own folder, "
        "which is that of its logger"
    )
