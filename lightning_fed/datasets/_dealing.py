"""Array arithmetic that the partitioners share: checks, grouping by worker, sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lightning_fed.core.arguments import number, whole
from lightning_fed.core.rng import global_seed

HOPELESS = 20
"""The largest number of too small workers for which a partitioner draws again. The number varies at most like a Poisson
variable, so with more of them another draw would succeed with a probability below about e^-20."""


def generator(seed: int | None) -> np.random.Generator:
    """Return the random generator of a seed; None: the seed of :func:`check_seed`."""
    return np.random.default_rng(np.random.SeedSequence(check_seed(seed)))


def check_seed(seed: object) -> int:
    """Return a seed, checked to be a non-negative integer, as NumPy requires.

    Args:
        seed: The seed; None: the seed of the last ``pl.seed_everything``, and 0 without one.
    """
    if seed is None:
        return global_seed() or 0
    return whole("seed", seed, least=0, says=": give an integer of at least 0, or None to follow pl.seed_everything")


def check_count(name: str, value: object) -> int:
    """Return a count, checked to be a positive integer."""
    return whole(name, value, least=1, says=": give at least 1, and a whole number")


def check_share(name: str, value: object) -> float:
    """Return the share of held-out examples, checked to be at least 0 and below 1."""
    return number(name, value, least=0, below=1, says=": give a share of at least 0 and below 1")


def check_enough(examples: int, **factors: int) -> None:
    """Refuse to deal out fewer examples than the product of the factors."""
    if (needed := math.prod(factors.values())) > examples:
        product = " * ".join(f"{argument}={value}" for argument, value in factors.items())
        raise ValueError(f"{product} needs {needed} examples, and there are {examples}: lower {' or '.join(factors)}")


def flat(values: Sequence[Any] | NDArray[Any]) -> NDArray[Any]:
    """Return one value per example, ``[n]``, from ``[n]`` or ``[n, 1]``."""
    array = np.asarray(values)
    if array.size != len(array):
        raise ValueError(f"labels of shape {array.shape}: give one number or string per example, [n] or [n, 1]")
    return array.reshape(-1)


def read_only(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Make an array read-only; a partition then need not copy it."""
    indices.setflags(write=False)
    return indices


def offsets(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the start of each part, and the end of the last part, from sizes: ``[parts]`` -> ``[parts + 1]``."""
    return np.concatenate([[0], np.cumsum(sizes)])


def even_offsets(n: int, parts: int) -> NDArray[np.int64]:
    """Return the offsets of parts of ``n`` whose sizes differ by at most one: ``[parts + 1]``."""
    return np.arange(parts + 1, dtype=np.int64) * n // parts


def group(
    indices: NDArray[np.int64], owners: NDArray[np.int64], workers: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort examples by owner, keeping their order within each.

    Args:
        indices: The examples, ``[n]``.
        owners: The worker of each, ``[n]``.
        workers: The number of workers.

    Returns:
        The examples by worker, ``[n]``, and the workers' sizes, ``[workers]``.
    """
    return indices[np.argsort(owners, kind="stable")], np.bincount(owners, minlength=workers)


def cut(shares: NDArray[np.float64], total: int, start: float) -> NDArray[np.int64]:
    """Cut a total into integers in given proportions (systematic rounding).

    With ``start`` drawn uniformly from [0, 1) the expectation of an integer is its exact share of the total; rounding
    down would assign the whole remainder to the last part.

    Args:
        shares: Not negative, and add up to 1: ``[parts]``.
        total: What the integers add up to.
        start: The start of the rounding, in [0, 1).

    Returns:
        int64 ``[parts]``.
    """
    inner = (np.cumsum(shares[:-1]) * total + start).astype(np.int64)
    # A start of almost 1 can round up to 1 in the sum, and so beyond the total.
    return np.diff(np.minimum(inner, total), prepend=0, append=total)


def cut_down(shares: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Cut a total into integers in given proportions, where the ends of all parts but the last are rounded down.

    Args:
        shares: Not negative, and add up to 1: ``[parts]``.
        total: What the integers add up to.

    Returns:
        int64 ``[parts]``.
    """
    ends = (np.cumsum(shares)[:-1] * total).astype(np.int64)
    return np.diff(np.concatenate([[0], ends, [total]]))


def moved(owners: NDArray[np.int64], sizes: NDArray[np.int64], min_size: int) -> NDArray[np.int64]:
    """Move examples of the largest workers to those below ``min_size``.

    Args:
        owners: The worker of each example, ascending, ``[n]``.
        sizes: The workers' sizes, ``[workers]``.
        min_size: The minimum size of every worker.

    Returns:
        The new worker of each example, ``[n]``. The donors end at one common level, or one above it.
    """
    wanted = np.maximum(min_size - sizes, 0)
    needed = int(wanted.sum())
    low, high = min_size, int(sizes.max())  # the highest level that frees enough lies in [low, high]
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.maximum(sizes - level, 0).sum() >= needed else (low, level - 1)
    given = np.maximum(sizes - low, 0)
    given[np.flatnonzero(given)[: given.sum() - needed]] -= 1
    rank = np.arange(len(owners)) - np.repeat(offsets(sizes)[:-1], sizes)
    leaves = rank >= np.repeat(sizes - given, sizes)
    result: NDArray[np.int64] = owners.copy()
    result[leaves] = np.repeat(np.arange(len(sizes)), wanted)
    return result


def proportional(weights: NDArray[np.float64], total: int, minimum: int) -> NDArray[np.int64]:
    """Cut ``total`` into integers ``max(minimum, scale * weights)``, rounded by largest remainder.

    Args:
        weights: Not negative, the largest 1, ``[workers]``.
        total: What the integers add up to; at least ``workers * minimum``.
        minimum: The smallest integer allowed.

    Returns:
        int64 ``[workers]``.
    """
    descending = np.sort(weights)[::-1]
    count = np.arange(1, len(weights) + 1)
    # scales[k - 1] is the scale if just the k heaviest lie above the minimum; the largest k that is true to that holds
    # (k = 1 always is: the heaviest weight is 1, and the others leave it at least the minimum).
    scales = (total - (len(weights) - count) * minimum) / np.cumsum(descending)
    fitting = np.flatnonzero(scales * descending >= minimum)
    exact = np.maximum(minimum, scales[fitting[-1]] * weights)
    sizes: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    sizes[np.argsort(sizes - exact, kind="stable")[: total - sizes.sum()]] += 1
    return sizes
