"""Cohort samplers: which workers take part in a round."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, TypeAlias, final

import numpy as np

from lightning_fed.core.arguments import whole
from lightning_fed.core.rng import derive
from lightning_fed.core.shown import Shown

Sizes: TypeAlias = Callable[[], Sequence[int]]
"""Gives the number of training examples of every worker. Goes through the whole population at the first call."""


Drawn: TypeAlias = Literal["by coins", "without replacement"]
"""A sampler's guarantee about its cohorts, so that a promise of privacy may lean on it.

``by coins``: each worker takes part with probability ``cohort_size / population``, independently of all others.
``without replacement``: all sets of ``cohort_size`` workers are equally likely, in each round anew.
"""


class CohortSampler(Shown, ABC):
    """Chooses the workers of a cohort, as a function of the seed and the cohort's running number alone.

    That makes a run repeatable and resumable without any state.
    """

    drawn: ClassVar[Drawn | None] = None
    """How cohorts are drawn; None: nothing is guaranteed, so no promise gains by it. A class that has a ``sample`` of
    its own, or of a mixin, guarantees what is said there, here and by :meth:`separation`, and not what it inherits."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        first = {name: _first_with(name, cls) for name in ("sample", "drawn", "separation")}
        if first["sample"] < first["drawn"]:
            cls.drawn = None
        if first["sample"] < first["separation"]:
            cls.separation = CohortSampler.separation  # type: ignore[method-assign]

    def prepare(self, sizes: Sizes) -> None:
        """Get to know the population; called before the first cohort of a run.

        Args:
            sizes: Gives the number of training examples of every worker, when it is called.
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

    def separation(self, population: int, cohort_size: int) -> int:
        """Return after how many cohorts a worker may take part again, whatever the seed; 1: already in the next one.

        Promises of privacy that do without random sampling are built on it (Choquette-Choo et al. 2023:
        b-min-separation).

        Args:
            population: The number of workers.
            cohort_size: How many of them are in a cohort.
        """
        return 1


def _first_with(name: str, kind: type) -> int:
    """The place in the order of resolution of the class from which an attribute is taken."""
    return next(place for place, each in enumerate(kind.__mro__) if name in vars(each))


@final
class Uniform(CohortSampler):
    """Every worker is as likely as any other; without replacement within a cohort (McMahan et al. 2017).

    >>> Uniform().sample(population=1_000_000, cohort_size=3, number=0, seed=0)
    [583320, 428020, 174090]
    """

    drawn: ClassVar[Drawn | None] = "without replacement"

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

    def separation(self, population: int, cohort_size: int) -> int:
        return population // cohort_size


@final
class MinSeparation(CohortSampler):
    """Draws at random among the workers that have not taken part for a number of rounds.

    The population falls into as many groups as there are rounds between, by position, and each round draws from the
    next group: the sampling of Choquette-Choo et al. 2023 for b-min-separation. Groups depend on nothing but the
    positions and the number of the round, so the separation holds over resumes and over rounds that fail.

    Args:
        rounds: After how many rounds a worker may take part again; None: as many as the population allows.

    Raises:
        ValueError: If the number is not positive; when cohorts are drawn, if a group is smaller than a cohort.

    >>> sampler = MinSeparation(rounds=3)
    >>> [sampler.sample(population=9, cohort_size=2, number=number, seed=0) for number in range(4)]
    [[6, 3], [7, 4], [2, 5], [6, 0]]
    """

    def __init__(self, rounds: int | None = None) -> None:
        self._rounds = None if rounds is None else whole("rounds", rounds, least=1, owner=self)

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        separation = self.separation(population, cohort_size)
        group = range(number % separation, population, separation)
        return random.Random(derive(seed, number, "cohort")).sample(group, cohort_size)

    def separation(self, population: int, cohort_size: int) -> int:
        most = population // cohort_size
        if self._rounds is not None and self._rounds > most:
            raise ValueError(
                f"MinSeparation(rounds={self._rounds}): {population} workers in cohorts of {cohort_size} cannot be "
                f"further apart than {most} rounds; lower rounds or cohort_size"
            )
        return most if self._rounds is None else self._rounds


@final
class WeightedBySize(CohortSampler):
    """The more examples a worker has, the likelier it is; without replacement within a cohort (Li et al. 2020).

    Draws one after another in proportion to the numbers of examples of those that are left (Efraimidis & Spirakis
    2006). Use it with :class:`~lightning_fed.aggregation.UniformMean`, or size counts twice. It has to know the size of
    every worker, so a population that cannot tell sizes has all of its workers built.

    >>> sampler = WeightedBySize()
    >>> sampler.prepare(lambda: [0, 5, 0])
    >>> sampler.sample(population=3, cohort_size=1, number=0, seed=0)
    [1]
    """

    def __init__(self) -> None:
        self._sizes: Sizes | None = None

    def prepare(self, sizes: Sizes) -> None:
        self._sizes = sizes

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        assert self._sizes is not None, "prepare() comes before sample()"
        weights = np.asarray(self._sizes(), dtype=np.float64)
        draws = np.random.default_rng(derive(seed, number, "cohort")).exponential(size=population)
        with np.errstate(divide="ignore"):
            arrivals = draws / weights
        return [int(position) for position in np.argsort(arrivals, kind="stable")[:cohort_size]]


@final
class Poisson(CohortSampler):
    """Every worker takes part with the same probability, independently of all others; a cohort may be empty.

    The probability is ``cohort_size / population``, so ``cohort_size`` is the size to be expected. This is the sampling
    that privacy is amplified by (Abadi et al. 2016; McMahan et al. 2018).

    >>> [len(Poisson().sample(population=1000, cohort_size=10, number=number, seed=0)) for number in range(3)]
    [6, 9, 12]
    """

    drawn: ClassVar[Drawn | None] = "by coins"

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        # Independent choices make a binomial number of workers, all sets of which are equally likely.
        chosen = np.random.default_rng(derive(seed, number, "size")).binomial(population, cohort_size / population)
        return random.Random(derive(seed, number, "cohort")).sample(range(population), int(chosen))
