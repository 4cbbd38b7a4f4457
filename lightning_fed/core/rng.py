"""Randomness as a function of (seed, cohort, worker), independent of earlier computations.

A run therefore has the same result for any number of processes and any order of workers, also if it was interrupted
and resumed.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

GLOBAL_SEED = "PL_GLOBAL_SEED"
"""The environment variable in which ``pl.seed_everything`` stores its seed, for processes that are started later."""

_spare = np.random.MT19937(0)
_is_isolated = False


def derive(seed: int, *keys: int | str) -> int:
    """Derive an independent seed from a seed and any keys.

    Args:
        seed: The seed of the whole run.
        keys: The purpose of the derived seed, such as a cohort's index and a worker's name.

    Returns:
        An integer in [0, 2**63).

    >>> derive(0, 3, "bob") == derive(0, 3, "bob")
    True
    >>> derive(0, 3, "bob") == derive(0, 3, "alice")
    False
    """
    digest = hashlib.blake2b(repr((seed, *keys)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def global_seed() -> int | None:
    """Return the seed of the last ``pl.seed_everything``; None: there was none.

    Raises:
        ValueError: If the environment variable does not hold a seed.
    """
    given = os.environ.get(GLOBAL_SEED)
    if given is None:
        return None
    if not (given.isascii() and given.isdigit()):
        raise ValueError(f"the environment variable {GLOBAL_SEED}={given!r} must be a whole number of at least 0")
    return int(given)


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's global generators (all devices that are in use).

    ``torch.manual_seed`` is not used: without a GPU it formats and stores the call stack at every call, in case CUDA is
    initialised later.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed can take as long as a small worker's training.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)


@contextmanager
def isolated() -> Iterator[None]:
    """Restore the global generators on exit; nested :func:`restored` contexts are then cheaper."""
    global _is_isolated
    with restored():
        before, _is_isolated = _is_isolated, True
        try:
            yield
        finally:
            _is_isolated = before


@contextmanager
def restored() -> Iterator[None]:
    """Restore the global generators on exit, on all devices that are in use.

    Inside of :func:`isolated`, one cached normal number of NumPy's legacy generator may be lost, since copying its
    state would be slower than everything else here.
    """
    state, words = torch.default_generator.get_state(), random.getstate()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    mps = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    generator = np.random.mtrand.get_bit_generator()
    numbers = None if _is_isolated else np.random.get_state()
    if numbers is None:
        np.random.mtrand.set_bit_generator(np.random.MT19937(0) if generator is _spare else _spare)
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
        random.setstate(words)
        if devices:
            torch.cuda.set_rng_state_all(devices)
        if mps is not None:
            torch.mps.set_rng_state(mps)
        if numbers is None:
            np.random.mtrand.set_bit_generator(generator)
        else:
            np.random.set_state(numbers)
