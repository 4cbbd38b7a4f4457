from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed import CohortSampler, Uniform
from lightning_fed.cohorts import Cohort, CohortLoader


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 50), st.data(), st.integers(0, 10**6), st.integers(0, 10**6))
def test_positions_differ_and_are_a_function_of_seed_and_number(
    population: int, data: st.DataObject, number: int, seed: int
) -> None:
    size = data.draw(st.integers(1, population))
    positions = Uniform().sample(population, size, number, seed)
    assert len(set(positions)) == len(positions) == size
    assert all(0 <= position < population for position in positions)
    assert positions == Uniform().sample(population, size, number, seed)


def test_cohorts_differ_from_number_to_number_and_from_seed_to_seed() -> None:
    cohorts = {tuple(Uniform().sample(1000, 5, number, seed)) for number in range(10) for seed in range(10)}
    assert len(cohorts) == 100


def test_every_worker_takes_part_about_equally_often() -> None:
    # 2000 cohorts of 3 out of 10: 600 times each, with a standard deviation of about 20.
    counts = Counter(p for number in range(2000) for p in Uniform().sample(10, 3, number, seed=1))
    assert len(counts) == 10
    assert all(500 < count < 700 for count in counts.values())


def test_every_place_in_the_cohort_is_as_likely() -> None:
    first = Counter(Uniform().sample(4, 4, number, seed=0)[0] for number in range(1000))
    assert all(190 < first[position] < 310 for position in range(4))  # 250, standard deviation 14


class Fixed(CohortSampler):
    def __init__(self, positions: list[int]) -> None:
        self.positions = positions

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return self.positions


@pytest.mark.parametrize("positions", [[0, 0], [3], [-1], [0, 1, 3]])
def test_a_sampler_that_errs_is_named(positions: list[int]) -> None:
    loader = CohortLoader(["a", "b", "c"], 2, Fixed(positions), seed=0, length=1)
    with pytest.raises(ValueError, match=r"Fixed.sample\(\) gave .*must lie in \[0, 3\) and differ"):
        next(iter(loader))


def test_a_samplers_order_is_the_order_of_visits() -> None:
    (cohort,) = CohortLoader(["a", "b", "c"], 2, Fixed([2, 0]), seed=5, length=1)
    assert cohort == Cohort(0, 5, ("c", "a"))
