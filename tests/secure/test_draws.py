"""How many workers coins draw: against scipy's binomial distribution, and what is made of it."""

from __future__ import annotations

import pytest
from scipy import stats

from lightning_fed.secure import SecureAggregation
from lightning_fed.secure.draws import bounds


@pytest.mark.parametrize(("population", "size"), [(1000, 100), (1000, 5), (10, 5), (3, 1), (10**6, 50), (10**6, 10**5)])
def test_no_cohort_is_beyond_the_bounds(population: int, size: int) -> None:
    least, most = bounds(population, size)
    drawn = stats.binom(population, size / population)
    assert drawn.cdf(least - 1) <= 1e-12 < drawn.cdf(least)
    assert drawn.sf(most) <= 1e-12 < drawn.sf(most - 1)


def test_whoever_is_drawn_with_certainty() -> None:
    assert bounds(7, 7) == (7, 7)


def test_few_coins_by_hand() -> None:
    """Of 10 fair coins each number has more than 1e-12; 0 and 10 have 1 / 1024 each, less than 0.1 %."""
    assert bounds(10, 5) == (0, 10)
    assert bounds(10, 5, failure=1e-3) == (1, 9)


def test_settings_of_rounds_that_coins_draw() -> None:
    plain = SecureAggregation(clip=1.0)
    assert plain.by_coins(1000, 100, hides_who=True) == (SecureAggregation(clip=1.0, least=28), 173)
    assert plain.by_coins(1000, 5, hides_who=False) == (SecureAggregation(clip=1.0, least=2), 27)
    assert plain.by_coins(10, 10, hides_who=True) == (SecureAggregation(clip=1.0, least=7), 10)
    fifty = SecureAggregation(clip=1.0, least=50)
    assert fifty.by_coins(1000, 100, hides_who=False) == (fifty, 173)
    with pytest.raises(
        ValueError, match=r"least=50\): .* as few as 40\), .* who was not drawn; give least=40, a larger"
    ):
        fifty.by_coins(1000, 100, hides_who=True)
    with pytest.raises(
        ValueError, match=r"least=2\): .* as few as 0\), .* give a larger cohort_size, or sampler=Uniform"
    ):
        plain.by_coins(1000, 5, hides_who=True)
