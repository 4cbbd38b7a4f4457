"""Bounds of the number of workers in a round of Poisson sampling."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_fed.core.arguments import number, whole

UNHEARD_OF = 1e-12
"""The probability of a round outside of the bounds, on either side."""


class Bounds(NamedTuple):
    """Bounds of the number of workers in a round.

    Args:
        least: The lower bound.
        most: The upper bound.
    """

    least: int
    most: int


def bounds(population: int, cohort_size: float, failure: float = UNHEARD_OF) -> Bounds:
    """Return bounds of a binomial number that hold except with a given probability on either side.

    Args:
        population: The number of workers.
        cohort_size: The expected number of workers in a round.
        failure: The probability.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> bounds(1000, 100), bounds(1000, 5), bounds(10, 10)
    (Bounds(least=40, most=173), Bounds(least=0, most=27), Bounds(least=10, most=10))
    """
    population = whole("population", population, least=1)
    rate = number("cohort_size", cohort_size, above=0, most=population) / population
    failure = number("failure", failure, above=0, below=0.5)
    if rate == 1:
        return Bounds(population, population)

    def probability(count: int) -> float:
        ways = math.lgamma(population + 1) - math.lgamma(count + 1) - math.lgamma(population - count + 1)
        return math.exp(ways + count * math.log(rate) + (population - count) * math.log1p(-rate))

    # The probability beyond ten standard deviations plus a hundred is negligible.
    reach = 10 * math.sqrt(population * rate * (1 - rate)) + 100
    least = max(0, math.floor(population * rate - reach))
    below = probability(least)
    while below <= failure:
        least += 1
        below += probability(least)
    most = min(population, math.ceil(population * rate + reach))
    above = probability(most)
    while above <= failure:
        most -= 1
        above += probability(most)
    return Bounds(least, most)
