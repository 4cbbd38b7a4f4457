"""Groups of processes, by which a process is ended with its children."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path


def send(group: int, number: int) -> bool:
    """Send a signal to a group of processes; False if there is none of them left.

    Args:
        group: The id of the group.
        number: The signal's number; 0: only check.
    """
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS says the latter where only zombies are left
        return False
    return True


def groups_below(processes: Sequence[int]) -> list[int]:
    """Return the groups of processes and of all their living descendants, each once.

    On macOS, which has no /proc, return the groups of the processes themselves, which must be group leaders.

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
