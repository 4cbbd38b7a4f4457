"""Means with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import mul


def weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the weighted mean of values; NaN if the weights sum to 0, also without values.

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
