"""Cohort samplers: which workers take part in a round."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from typing import final

from lightning_fed.core.rng import derive


class CohortSampler(ABC):
    """Chooses the workers of a cohort, as a function of the seed and the cohort's running number alone.

    That makes a run repeatable and resumable without any state.
    """

    @abstractmethod
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        """Choose the workers of one cohort.

        Args:
            population: The number of workers.
            cohort_size: How many to choose.
            number: The cohort's running number, from 0.
            seed: The seed of the run.

        Returns:
            Positions in the population, each at most once, in the order in which the workers are to be visited.
        """


@final
class Uniform(CohortSampler):
    """Every worker is as likely as any other; without replacement within a cohort (McMahan et al. 2017).

    >>> Uniform().sample(population=1_000_000, cohort_size=3, number=0, seed=0)
    [583320, 428020, 174090]
    """

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return random.Random(derive(seed, number, "cohort")).sample(range(population), cohort_size)


@final
class RoundRobin(CohortSampler):
    """Everyone in turn: nobody takes part a second time before all have taken part once.

    >>> [RoundRobin().sample(population=5, cohort_size=2, number=number, seed=0) for number in range(3)]
    [[0, 1], [2, 3], [4, 0]]
    """

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [position % population for position in range(number * cohort_size, (number + 1) * cohort_size)]
