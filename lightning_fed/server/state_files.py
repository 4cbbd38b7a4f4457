"""Files with workers' state that a checkpoint refers to, where the processes of a run have no disk in common.

Every process holds the state of all workers, and the first one writes the checkpoint, which refers to its own files. On
the other machines those need not exist: whoever finds one gives it to the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning_fed.core.processes import Processes
from lightning_fed.state import write_whole


def share_files(state: Mapping[str, Any], folder: Path, processes: Processes, roots: Sequence[Path] = ()) -> None:
    """Let every process find the files that a checkpoint refers to, if one of them does.

    Args:
        state: The part of the checkpoint about workers' state: ``{table: {"files": [path, ...], ...}}``.
        folder: Where this process keeps its files; what it is given is written there.
        processes: The processes.
        roots: Other folders to look in.

    Raises:
        OSError: If a file cannot be read or written.
        ProcessError: If another process could not.
    """
    files = list(dict.fromkeys(file for table in state.values() for file in table["files"]))
    if processes.size == 1 or not files:
        return
    places = {file: _place(file, folder, roots) for file in files}
    finders = processes.gather({file for file, place in places.items() if place is not None})
    for file in files:
        having = [rank for rank, found in enumerate(finders) if file in found]
        if not having or len(having) == processes.size:  # if nobody has it, that is told when it is opened
            continue
        try:
            place = places[file]
            sent = place.read_bytes() if place is not None and processes.rank == having[0] else None
        except OSError as error:
            processes.fail(error)
        content = processes.gather(sent)[having[0]]
        if place is None and content is not None:
            _write(folder / Path(file).name, content)


def _place(file: str, folder: Path, roots: Sequence[Path]) -> Path | None:
    path = Path(file)
    beside = Path(path.parent.name) / path.name  # process-0/rows.safetensors, wherever the run lies now
    candidates = [path, folder / path.name, *(root / beside for root in (*roots, folder.parent))]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda unfinished: unfinished.write_bytes(content))
