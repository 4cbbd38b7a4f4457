"""Cohort samplers: rules that select the workers of a round."""

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
"""A function that returns every worker's number of training examples. Its first call visits the whole population."""


Drawn: TypeAlias = Literal["by coins", "without replacement"]
"""A sampler's guarantee about its cohorts, on which a promise of privacy may rely.

``by coins``: each worker takes part with probability ``cohort_size / population``, independently of all others.
``without replacement``: all sets of ``cohort_size`` workers are equally likely, independently in each round.
"""


class CohortSampler(Shown, ABC):
    """Base of the samplers: functions of the seed, the cohort's running number, and the sizes given to :meth:`prepare`.

    A run is therefore reproducible and can be resumed without any stored state.
    """

    drawn: ClassVar[Drawn | None] = None
    """The distribution of cohorts; None: no guarantee, so a promise gains nothing from sampling. A class that defines
    ``sample``, itself or by a mixin, must declare its own guarantee and :meth:`separation`; it inherits neither."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        first = {name: _first_with(name, cls) for name in ("sample", "drawn", "separation")}
        if first["sample"] < first["drawn"]:
            cls.drawn = None
        if first["sample"] < first["separation"]:
            cls.separation = CohortSampler.separation  # type: ignore[method-assign]

    def prepare(self, sizes: Sizes) -> None:
        """Prepare for a population; called before the first cohort of a run.

        Args:
            sizes: Returns the number of training examples of every worker, when it is called.
        """

    @abstractmethod
    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        """Choose the workers of one cohort.

        Args:
            population: The number of workers.
            cohort_size: The number of workers to choose.
            number: The cohort's running number, from 0.
            seed: The seed of the run's cohorts; under a promise of privacy, a secret one.

        Returns:
            Positions in the population, each at most once, in the order in which the workers are to be visited: as many
            as ``cohort_size``, except from samplers that draw by coins.
        """

    def separation(self, population: int, cohort_size: int) -> int:
        """Return the number of cohorts after which a worker may take part again, for any seed; 1: in the next one.

        Promises of privacy without random sampling rely on this number (Choquette-Choo et al. 2023: b-min-separation).

        Args:
            population: The number of workers.
            cohort_size: The number of workers in a cohort.
        """
        return 1


def _first_with(name: str, kind: type) -> int:
    """Return the position in the method resolution order of the class that defines an attribute."""
    return next(place for place, each in enumerate(kind.__mro__) if name in vars(each))


@final
class Uniform(CohortSampler):
    """Selects all workers with equal probability; without replacement within a cohort (McMahan et al. 2017).

    >>> Uniform().sample(population=1_000_000, cohort_size=3, number=0, seed=0)
    [583320, 428020, 174090]
    """

    drawn: ClassVar[Drawn | None] = "without replacement"

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return random.Random(derive(seed, number, "cohort")).sample(range(population), cohort_size)


@final
class RoundRobin(CohortSampler):
    """Selects all workers in turn: no worker takes part a second time before all have taken part once.

    >>> [RoundRobin().sample(population=5, cohort_size=2, number=number, seed=0) for number in range(3)]
    [[0, 1], [2, 3], [4, 0]]
    """

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        return [position % population for position in range(number * cohort_size, (number + 1) * cohort_size)]

    def separation(self, population: int, cohort_size: int) -> int:
        return population // cohort_size


@final
class MinSeparation(CohortSampler):
    """Draws at random from the workers that have not taken part for a number of rounds.

    The population is split by position into ``rounds`` groups, and each round draws from the next group: the sampling
    of Choquette-Choo et al. 2023 for b-min-separation. Groups depend only on the positions and the round's number, so
    the separation also holds when a run is resumed and when rounds fail.

    Args:
        rounds: The number of rounds after which a worker may take part again; None: the largest that the population
            allows.

    Raises:
        ValueError: If ``rounds`` is not positive; when cohorts are drawn, if a group is smaller than a cohort.

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
    """Selects workers in proportion to their numbers of examples, without replacement in a cohort (Li et al. 2020).

    Draws workers one after another, each in proportion to the numbers of examples of the remaining workers
    (Efraimidis & Spirakis 2006). Use it with :class:`~lightning_fed.aggregation.UniformMean`; otherwise size counts
    twice. It requires the size of every worker, so a population that does not provide sizes builds all its workers.

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
    """Selects each worker with the same probability, independently of all others; a cohort may be empty.

    The probability is ``cohort_size / population``, so ``cohort_size`` is the expected size. This is the sampling of
    privacy amplification (Abadi et al. 2016; McMahan et al. 2018).

    >>> [len(Poisson().sample(population=1000, cohort_size=10, number=number, seed=0)) for number in range(3)]
    [6, 9, 12]
    """

    drawn: ClassVar[Drawn | None] = "by coins"

    def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
        # The size of a Poisson cohort is binomial; given the size, all sets are equally likely.
        chosen = np.random.default_rng(derive(seed, number, "size")).binomial(population, cohort_size / population)
        return random.Random(derive(seed, number, "cohort")).sample(range(population), int(chosen))
