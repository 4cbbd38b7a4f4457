"""How the process treats memory that it has just freed."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, from glibc's malloc.h
_KEPT = 2**30  # bytes
_LARGEST = 2**25  # bytes; the most that glibc takes


@cache
def keep_freed_memory() -> bool:
    """Have glibc keep freed blocks of up to 32 MB for the next step, where it would give them back to the system.

    A step on a CPU frees its activations and the next one wants them again, page by page: for a round of a small
    convolutional net some 50,000 page faults, without which it takes 2.7 s and not 3.2. Up to 1 GiB is kept, until the
    process ends. Whoever has set glibc's ``MALLOC_...`` variables is left alone.

    Returns:
        Whether it was done; not without glibc.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is None:
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT) and mallopt(_MMAP_THRESHOLD, _LARGEST))
