"""Memory that a child process writes an update to and its parent reads, so that it is not copied through a pipe.

What lies there is the message that would otherwise be sent (:mod:`lightning_fed.wire.codec`): for a network of six
megabytes the pipe takes as long as the aggregation.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from typing import final

import numpy as np

_FOLDER = "/dev/shm"  # a file system in memory; where there is none, updates go through the pipe


def create(size: int) -> int | None:
    """Create a file in memory that is gone once nobody has it open; None if there is no room for it.

    Args:
        size: Its number of bytes.
    """
    if not os.path.isdir(_FOLDER) or not hasattr(os, "posix_fallocate"):
        return None
    try:
        with tempfile.TemporaryFile(dir=_FOLDER) as file:
            os.posix_fallocate(file.fileno(), 0, size)  # else a write to memory that is not there would end the process
            return os.dup(file.fileno())
    except OSError:
        return None


@final
class Slot:
    """A place for one message, in the process that reads or in the one that writes.

    Args:
        fd: The file, which is closed.
        size: Its number of bytes.
    """

    def __init__(self, fd: int, size: int) -> None:
        self._map = mmap.mmap(fd, size)
        os.close(fd)
        self.size = size
        self.is_free = True

    def writable(self) -> memoryview:
        """All of it, to be written to."""
        return memoryview(self._map)

    def read(self, size: int) -> memoryview:
        """The message in it; the slot is free again once nobody holds a view of it.

        Args:
            size: The message's number of bytes.
        """
        self.is_free = False
        whole = np.frombuffer(self._map, dtype=np.uint8, count=size)
        weakref.finalize(whole, self._free)
        return memoryview(whole.data)

    def _free(self) -> None:
        self.is_free = True
