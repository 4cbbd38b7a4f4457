"""Means with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """The mean of values with weights; NaN if the weights sum to 0, as those of no values do.

    Args:
        values: The values, ``[n]``.
        weights: Their weights, ``[n]``.

    >>> weighted_mean([1.0, 4.0], [1, 2])
    3.0
    >>> weighted_mean([], [])
    nan
    """
    total = sum(weights)
    return sum(map(mul, values, weights)) / total if total else math.nan
