"""Reuse of memory that the process has just freed."""

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
    """Have glibc keep freed blocks of up to 32 MB for the next step, where it would give them back to the system.

    A step on a CPU frees its activations, and the next one needs them again, page by page. Up to 1 GiB is kept, until
    the process ends. Where glibc's ``MALLOC_...`` variables are set, they stay in force.

    Returns:
        Whether it was done; not without glibc.
    """
    # A round of a small convolutional net takes 2.7 s without some 50,000 page faults, and 3.2 s with them.
    return _set((_TRIM_THRESHOLD, _KEPT), (_MMAP_THRESHOLD, _LARGEST))


@cache
def return_freed_memory() -> bool:
    """Have glibc give freed blocks of 1 MB or more back to the system at once, for a process that computes little.

    By itself it keeps blocks of the size of those that it has seen before, in each thread's own heap.

    Returns:
        Whether it was done; not without glibc, and not where its ``MALLOC_...`` variables are set.
    """
    return _set((_MMAP_THRESHOLD, _RETURNED))


def _set(*options: tuple[int, int]) -> bool:
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    return mallopt is not None and all(mallopt(option, value) for option, value in options)
