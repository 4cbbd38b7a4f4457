"""The contracts of cohort samplers and of models of availability."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch

from lightning_fed._lightning import isolate_rng
from lightning_fed.core.rng import seed_generators
from lightning_fed.selection import Availability, CohortSampler, Response


def check_sampler(make: Callable[[], CohortSampler]) -> None:
    """Check a sampler against its contract.

    - Positions are different integers within the population, also for a cohort as large as the population.
    - Positions are a function of seed and number only: another instance, called in another order, returns the same,
      and global generators are neither used nor changed.
    - No worker takes part again before ``separation()`` allows it, for any seed.

    Args:
        make: Makes the sampler.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    for population, cohort_size in ((1, 1), (7, 3), (50, 50), (1000, 20)):
        before = _generators()
        first = _sampled(make(), population, cohort_size, range(10))
        assert _generators() == before, "sample() moved a generator of the program; use derive() and one of its own"
        with _other_randomness():
            again = _sampled(make(), population, cohort_size, range(9, -1, -1))
        assert again == first, "sample() does not depend on seed and number alone"
        for positions in first.values():
            assert all(type(position) is int for position in positions), f"{positions} are not all of type int"
            assert len(set(positions)) == len(positions), f"a position comes twice in {positions}"
            assert all(0 <= position < population for position in positions), f"{positions} leave 0..{population - 1}"
        _check_separation(make(), population, cohort_size)


def _check_separation(sampler: CohortSampler, population: int, cohort_size: int) -> None:
    separation = sampler.separation(population, cohort_size)
    assert type(separation) is int, f"separation() gave {separation!r}, which is no int"
    assert separation >= 1, f"separation() gave {separation}, and 1 is the least"
    cohorts = _sampled(sampler, population, cohort_size, range(min(3 * separation, 200)))
    last: dict[int, int] = {}
    for number, positions in cohorts.items():
        for position in positions:
            apart = number - last.get(position, -population)
            assert apart >= separation, f"a worker comes again after {apart} rounds; separation() says {separation}"
            last[position] = number


def check_availability(make: Callable[[], Availability]) -> None:
    """Check a model of availability against its contract.

    - A response has one of the three outcomes, and a part of the work between 0 and 1.
    - It is a function of worker, number and seed only: another instance, called in another order, returns the same,
      and global generators are neither used nor changed.

    Args:
        make: Makes the model.

    Raises:
        AssertionError: With the part of the contract that fails.
    """
    outcomes = ("replies", "absent", "lost")
    asked = [(f"w{worker}", number, seed) for worker in range(20) for number in range(5) for seed in range(2)]
    before = _generators()
    forwards, availability = make(), make()
    first = [forwards.respond(*question) for question in asked]
    assert _generators() == before, "respond() moved a generator of the program; use derive() and one of its own"
    with _other_randomness():
        again = [availability.respond(*question) for question in reversed(asked)]
    assert again[::-1] == first, "respond() does not depend on worker, number and seed alone"
    for response in first:
        assert isinstance(response, Response), f"respond() gave {response!r}, which is no Response"
        assert response.outcome in outcomes, f"{response.outcome!r} is none of {outcomes}"
        assert 0 <= response.work <= 1, f"work={response.work} does not lie in [0, 1]"


def _sampled(sampler: CohortSampler, population: int, cohort_size: int, numbers: range) -> dict[int, list[int]]:
    sampler.prepare(lambda: [1 + position % 5 for position in range(population)])
    return {number: sampler.sample(population, cohort_size, number, seed=3) for number in numbers}


@contextmanager
def _other_randomness() -> Iterator[None]:
    """Set the global generators to other states, and restore them."""
    with isolate_rng(include_cuda=torch.cuda.is_available()):
        seed_generators(12345)
        yield


def _generators() -> tuple[Any, ...]:
    _, numbers, *rest = cast(Any, np.random.get_state())
    return random.getstate(), numbers.tobytes(), tuple(rest), torch.get_rng_state().numpy().tobytes()
