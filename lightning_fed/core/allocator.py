"""Settings of glibc's allocator for freed memory."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, from glibc's malloc.h
_KEPT = 2**30  # bytes
_RETURNED = 2**20  # bytes
_LARGEST = 2**25  # bytes; the most that glibc takes


@cache
def keep_freed_memory() -> bool:
    """Make glibc keep freed blocks of up to 32 MB for the next step, instead of returning them to the system.

    A step on a CPU frees its activations, and the next step allocates them again, page by page. Up to 1 GiB is kept
    until the process ends. glibc's ``MALLOC_...`` variables take precedence.

    Returns:
        Whether the setting was made; False without glibc.
    """
    # A round of a small convolutional net is faster without some 50,000 page faults.
    return _set((_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _LARGEST))


@cache
def return_freed_memory() -> bool:
    """Make glibc return freed blocks of 1 MB or more to the system at once, for a process that computes little.

    By default glibc keeps blocks of sizes that it has seen before, in each thread's own heap.

    Returns:
        Whether the setting was made; False without glibc, or if its ``MALLOC_...`` variables are set.
    """
    return _set((_MMAP_THRESHOLD, _RETURNED))


def _set(*options: tuple[int, int]) -> bool:
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(option, value) for option, value in options)
