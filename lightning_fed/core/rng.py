"""Randomness is a function of (seed, cohort, worker), never of what ran before.

That is why a run gives the same result whatever the number of processes, the order in which workers run, and whether
it was interrupted and resumed.
"""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch


def derive(seed: int, *keys: int | str) -> int:
    """Derive an independent seed from a seed and any keys.

    Args:
        seed: The seed of the whole run.
        keys: What the derived seed is for, such as a cohort's index and a worker's name.

    Returns:
        An integer in [0, 2**63).

    >>> derive(0, 3, "bob") == derive(0, 3, "bob")
    True
    >>> derive(0, 3, "bob") == derive(0, 3, "alice")
    False
    """
    digest = hashlib.blake2b(repr((seed, *keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (all devices that are in use).

    Not by ``torch.manual_seed``: without a GPU it formats the call stack at every call and keeps it, in case CUDA is
    initialised later, which took about as long as a small worker's training (1 ms).
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
