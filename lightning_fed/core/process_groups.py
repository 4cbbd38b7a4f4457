"""Groups of processes: what a process has started is ended with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path


def send(group: int, number: int) -> bool:
    """Send a signal to a group of processes; False if there is none of them left.

    Args:
        group: The id of the group.
        number: That of the signal; 0: only ask.
    """
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter where only zombies are left
        return False
    return True


def groups_below(processes: Sequence[int]) -> list[int]:
    """Return the groups of processes and of all that they have started and that lives, each once.

    On macOS, which has no /proc, those of the processes themselves, each of which is to be the first of its group.

    Args:
        processes: Their ids.
    """
    groups, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            _, parent, group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            groups[int(path.parent.name)], parents[int(path.parent.name)] = int(group), int(parent)
    below = set(processes)
    while more := {process for process, parent in parents.items() if parent in below} - below:
        below |= more
    return sorted({groups.get(process, process) for process in below})
