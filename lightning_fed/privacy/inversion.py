"""Integer noise by inversion: uniform bits are compared with the exact distribution function, as integers.

A number is drawn from 80 uniform bits. The first 16 select one of 2¹⁶ cells of equal probability (a guide table, Chen &
Asau 1974). Most cells lie between two thresholds, and these bits suffice; else 64 more bits locate the number in the
cell. Thresholds are multiples of 2⁻⁸⁰, rounded from integers of far higher precision, without floats: sums of float
probabilities would have errors of 1e-13 for wide noise, and many numbers of many workers would add them up to a visible
δ. The error of a draw, in total variation, is at most (number of thresholds) · 2⁻⁸¹.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias, final

import numpy as np

from lightning_fed.core.arguments import number

MOST_STD = 8192
"""The largest standard deviation of drawn noise: some 170,000 thresholds, which take 1.5 MB."""

CELL_BITS, REST_BITS = 16, 64
_CELLS = 2**CELL_BITS
_BITS = CELL_BITS + REST_BITS

Entropy: TypeAlias = Callable[[int], bytes]
"""A function that returns a number of fresh uniform bytes."""
Integers: TypeAlias = "np.ndarray[Any, np.dtype[np.int32]]"


@final
@dataclass(frozen=True, eq=False)
class InversionTable:
    """The distribution function of integers, cut into cells.

    Args:
        least: The smallest integer.
        first: The number of thresholds before each cell, and the number of all; int32 ``[2¹⁶ + 1]``.
        rest: The last 64 bits of each threshold, uint64 ``[m]``; thresholds are the distribution function at
            ``least + j``, in units of 2⁻⁸⁰.
    """

    least: int
    first: Integers
    rest: np.ndarray[Any, np.dtype[np.uint64]]

    @classmethod
    def of(cls, least: int, thresholds: list[int]) -> InversionTable:
        """Cut a distribution function into cells.

        Args:
            least: The smallest integer.
            thresholds: ``P(X <= least + j)`` in units of 2⁻⁸⁰, in order; above 0 and below 1.

        >>> coin = InversionTable.of(0, [2**79])
        >>> coin.drawn(2, lambda count: bytes([0, 0x40, 0, 0xC0])).tolist()  # a quarter, and three of them
        [0, 1]
        """
        cells = np.array([threshold >> REST_BITS for threshold in thresholds], dtype=np.int64)
        rest = np.array([threshold & (2**REST_BITS - 1) for threshold in thresholds], dtype=np.uint64)
        return cls(least, np.searchsorted(cells, np.arange(_CELLS + 1)).astype(np.int32), rest)

    def drawn(self, size: int, entropy: Entropy) -> Integers:
        """Draw integers: ``least`` plus the number of thresholds that do not exceed the uniform bits.

        Args:
            size: The number of integers.
            entropy: Returns 2 bytes for each integer, and then 8 for each that these leave undecided.

        Returns:
            int32 ``[size]``.
        """
        cells = np.frombuffer(entropy(2 * size), dtype="<u2").astype(np.intp)
        before = self.first[cells]
        open_ = np.flatnonzero(before != self.first[1:][cells])
        if len(open_):
            words = np.frombuffer(entropy(8 * len(open_)), dtype="<u8")
            low, high = before[open_], self.first[1:][cells[open_]]
            while len(open_):  # halve the thresholds of each cell that may lie before its word
                middle = (low + high) >> 1
                beyond = self.rest[middle] <= words
                low, high = np.where(beyond, middle + 1, low), np.where(beyond, high, middle)
                before[open_] = low
                left = np.flatnonzero(low < high)
                open_, words, low, high = open_[left], words[left], low[left], high[left]
        before += np.int32(self.least)
        return before


def largest_skellam(variance: float) -> int:
    """Return the largest absolute value of a drawn integer; a Skellam number exceeds it with probability below 2⁻⁸⁰.

    Args:
        variance: V.

    >>> largest_skellam(100.0)
    160
    """
    return int(13 * math.sqrt(variance)) + 30


@lru_cache(maxsize=8)
def skellam_table(variance: float) -> InversionTable:
    """Return the table of Skellam noise, the difference of two Poisson numbers of mean V/2: ``e^(-V) I_k(V)``.

    The Bessel functions I_k follow from Miller's backward recurrence ``I_(k-1) = I_(k+1) + (2k/V) I_k`` in integers,
    from a start where the omitted terms are below 2⁻¹⁰⁰; all terms are positive, so nothing cancels. The tables of the
    last variances are cached.

    Args:
        variance: V; above 0 and at most ``MOST_STD`` squared.

    Raises:
        TypeError: If the variance is not a number.
        ValueError: If the variance is out of range.
    """
    numerator, denominator = number("variance", variance, above=0, most=MOST_STD**2).as_integer_ratio()
    reach = largest_skellam(variance)
    after, at = 0, 2**128  # each step rounds down by less than one of these
    terms = [at]  # proportional to I_reach, …, I_1, I_0
    for k in range(reach, 0, -1):
        after, at = at, after + 2 * k * denominator * at // numerator
        terms.append(at)
    total = 2 * sum(terms) - at
    # P(X <= -reach), …, P(X <= -1), rounded; the other half is the mirror image, exactly
    below = [((sum_ << (_BITS + 1)) + total) // (2 * total) for sum_ in itertools.accumulate(terms[:-1])]
    below = [threshold for threshold in below if threshold > 0]
    return InversionTable.of(-len(below), below + [2**_BITS - threshold for threshold in reversed(below)])
