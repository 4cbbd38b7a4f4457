"""Mean and spread over seeds, and the mean difference of pairs with an interval for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Spread:
    """The mean and the spread of some values.

    Args:
        mean: The mean.
        sd: The standard deviation of a sample (divided by n - 1); None for a single value.
        n: The number of values.
    """

    mean: float
    sd: float | None
    n: int


@final
@dataclass(frozen=True)
class Interval:
    """A mean difference of pairs, with the interval in which it lies with 95 % confidence.

    Args:
        mean: The mean of the differences.
        low: The interval's lower end; None for a single pair.
        high: Its upper end; None for a single pair.
        n: The number of pairs.
    """

    mean: float
    low: float | None
    high: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """Return mean and standard deviation of a sample; None if there is no value.

    Args:
        values: The values.

    >>> spread([1.0, 2.0, 3.0])
    Spread(mean=2.0, sd=1.0, n=3)
    """
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if not all(map(math.isfinite, values)):
        return Spread(mean, math.nan if len(values) > 1 else None, len(values))
    return Spread(mean, statistics.stdev(values) if len(values) > 1 else None, len(values))


def interval(differences: Sequence[float]) -> Interval | None:
    """Return the mean of paired differences with Student's 95 % interval; None if there is no pair.

    The interval is mean ± t sd / √n, with the 97.5 % point t of Student's distribution of n - 1 degrees of freedom.

    Args:
        differences: One for each pair.

    >>> found = interval([1.0, 2.0, 3.0])
    >>> round(found.low, 3), round(found.high, 3)
    (-0.484, 4.484)
    """
    found = spread(differences)
    if found is None or found.sd is None:
        return None if found is None else Interval(found.mean, None, None, found.n)
    half = student(0.95, found.n - 1) * found.sd / math.sqrt(found.n)
    return Interval(found.mean, found.mean - half, found.mean + half, found.n)


def student(level: float, degrees: int) -> float:
    """Return the number of standard errors on each side that hold a share of Student's t distribution.

    Args:
        level: The share, above 0 and below 1.
        degrees: The degrees of freedom, at least 1.

    >>> [round(student(0.95, degrees), 3) for degrees in (1, 2, 4, 30)]
    [12.706, 4.303, 2.776, 2.042]
    """
    low, high = 0.0, 1.0
    while _share(high, degrees) < level:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _share(middle, degrees) < level else (low, middle)
    return high


def _share(t: float, degrees: int) -> float:
    """P(|T| <= t), by Abramowitz & Stegun, *Handbook of Mathematical Functions*, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(degrees))
    even = degrees % 2 == 0
    term = 1.0 if even else math.cos(angle)
    total = term if degrees > 1 else 0.0
    for k in range(2 if even else 3, degrees - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return math.sin(angle) * total if even else 2 / math.pi * (angle + math.sin(angle) * total)
