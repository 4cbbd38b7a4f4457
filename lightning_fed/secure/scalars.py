"""Scalars in a separate ring: losses, metrics, weights and counts, with 24 fractional bits.

The ring is modulo 2⁶⁴, in int64 tensors, which wrap around in two's complement.
"""

from __future__ import annotations

import torch
from torch import Tensor

FRACTION_BITS = 24
"""The fractional bits: sums are exact to 6e-8 for each worker."""


def most(workers: int) -> float:
    """Return the largest absolute value of a number for which the sum over so many workers does not wrap around.

    Args:
        workers: The number of workers.
    """
    return (2.0 ** (63 - FRACTION_BITS) - 1.0) / workers


def encode(numbers: Tensor) -> Tensor:
    """Return numbers as words, rounded to the nearest.

    Args:
        numbers: float64 ``[n]``, finite, of a size below 2³⁹ divided by the number of workers.

    Returns:
        int64 ``[n]``.

    >>> decode(int(encode(torch.tensor([1.5, -0.25], dtype=torch.float64)).sum()))
    1.25
    """
    return (numbers * 2.0**FRACTION_BITS).round_().to(torch.int64)


def decode(total: int) -> float:
    """Return a sum of numbers.

    Args:
        total: The sum of their words modulo 2⁶⁴, in two's complement.
    """
    return total / 2.0**FRACTION_BITS


def within(numbers: Tensor, weights: Tensor, bound: float) -> Tensor:
    """Return a mask of the numbers that can be added: finite, and with their weight not larger than a bound.

    Args:
        numbers: float64 ``[n]``.
        weights: float64 ``[n]``, from 0 to 1.
        bound: The largest size of a number times its weight.

    Returns:
        bool ``[n]``.

    >>> some = torch.tensor([1.0, float("nan"), 3e6], dtype=torch.float64)
    >>> within(some, torch.ones(3, dtype=torch.float64), 1e6).tolist()
    [True, False, False]
    """
    return numbers.isfinite() & ((numbers * weights).abs() <= bound)
