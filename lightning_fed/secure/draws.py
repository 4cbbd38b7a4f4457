"""How many workers a round has where each takes part by a coin of its own."""

from __future__ import annotations

import math
from typing import NamedTuple

from lightning_fed.core.arguments import number, whole

UNHEARD_OF = 1e-12
"""The probability of a round with fewer workers than the least, or with more than the most."""


class Bounds(NamedTuple):
    """Bounds of the number of workers in a round.

    Args:
        least: The least of them.
        most: The most of them.
    """

    least: int
    most: int


def bounds(population: int, cohort_size: float, failure: float = UNHEARD_OF) -> Bounds:
    """Return between which numbers a binomial number lies, but for a probability on either side.

    Args:
        population: The number of coins.
        cohort_size: The number to be expected.
        failure: The probability.

    Raises:
        TypeError: If an argument is no number.
        ValueError: If one is out of range.

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

    # Beyond ten standard deviations and a hundred lies nothing that would count beside the failure.
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
