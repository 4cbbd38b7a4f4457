from __future__ import annotations

from collections import Counter
from itertools import combinations
from typing import Any

import pytest
from helpers import Rows, Scalar, fit
from hypothesis import given, settings
from hypothesis import strategies as st

from lightning_fed import CohortSampler, FederatedDataModule, FederatedModule, Population, RoundRobin, Uniform
from lightning_fed._lightning import pl
from lightning_fed.aggregation import UniformMean
from lightning_fed.algorithms import FedDyn, Scaffold
from lightning_fed.selection import MinSeparation, Poisson, WeightedBySize
from lightning_fed.server.loaders import Cohort, CohortLoader, Position
from lightning_fed.testing import check_sampler


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
    loader = CohortLoader(["a", "b", "c"], 2, Fixed(positions), seed=0, length=1, position=Position())
    with pytest.raises(ValueError, match=r"Fixed.sample\(\) gave .*must lie in \[0, 3\) and differ"):
        next(iter(loader))


def test_a_samplers_order_is_the_order_of_visits() -> None:
    (cohort,) = CohortLoader(["a", "b", "c"], 2, Fixed([2, 0]), seed=5, length=1, position=Position())
    assert cohort == Cohort(0, 5, ("c", "a"))


@pytest.mark.parametrize("make", [Uniform, RoundRobin, WeightedBySize, Poisson, MinSeparation])
def test_contract(make: Any) -> None:
    check_sampler(make)


def test_a_sample_of_a_mixin_inherits_no_guarantee() -> None:
    class Always:
        def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
            return [0]

    class ByCoins(Always, Poisson):  # type: ignore[misc]
        """Not by coins: its ``sample`` is the mixin's."""

    class Apart(Always, RoundRobin):  # type: ignore[misc]
        """Worker 0 takes part in every round."""

    class Same(Poisson):  # type: ignore[misc]
        """Draws as Poisson does."""

    assert ByCoins.drawn is None
    assert Apart().separation(10, 1) == 1
    assert Same.drawn == "by coins"


# ---- RoundRobin -----------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 50))
def test_round_robin_asks_nobody_twice_before_all(population: int, cohort_size: int, cohorts: int) -> None:
    size = min(cohort_size, population)
    counts = Counter(dict.fromkeys(range(population), 0))
    for number in range(cohorts):
        counts.update(RoundRobin().sample(population, size, number, seed=0))
    assert max(counts.values()) - min(counts.values()) <= 1


# ---- MinSeparation --------------------------------------------------------------------------------------------------


def test_each_round_draws_from_the_next_group() -> None:
    """Seven workers in three groups by position, {0, 3, 6}, {1, 4}, {2, 5}, of which two are drawn in a round."""
    sampler = MinSeparation(rounds=3)
    for number in range(30):
        drawn = sampler.sample(7, 2, number, seed=number)
        assert len(set(drawn)) == 2
        assert {position % 3 for position in drawn} == {number % 3}


def test_everyone_of_a_group_is_as_likely() -> None:
    counts = Counter(p for number in range(0, 6000, 2) for p in MinSeparation(2).sample(10, 2, number, seed=0))
    assert set(counts) == {0, 2, 4, 6, 8}
    assert all(count / 3000 == pytest.approx(0.4, abs=0.05) for count in counts.values())  # standard deviation 0.009


@pytest.mark.parametrize(("population", "cohort_size", "most"), [(10, 3, 3), (10, 10, 1), (9, 3, 3), (100, 1, 100)])
def test_without_a_number_workers_are_as_far_apart_as_can_be(population: int, cohort_size: int, most: int) -> None:
    assert MinSeparation().separation(population, cohort_size) == most
    with pytest.raises(ValueError, match=f"cannot be further apart than {most} rounds; lower rounds or cohort_size"):
        MinSeparation(most + 1).sample(population, cohort_size, 0, seed=0)


@pytest.mark.parametrize("sampler", [Uniform(), Poisson(), WeightedBySize()])
def test_a_sampler_that_promises_nothing_says_so(sampler: CohortSampler) -> None:
    assert sampler.separation(10, 2) == 1


def test_the_contract_notices_a_separation_that_does_not_hold() -> None:
    class Boast(CohortSampler):
        def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
            return Uniform().sample(population, cohort_size, number, seed)

        def separation(self, population: int, cohort_size: int) -> int:
            return 2

    with pytest.raises(AssertionError, match="comes again after 1 rounds"):
        check_sampler(Boast)


# ---- WeightedBySize -------------------------------------------------------------------------------------------------

SIZES = [1, 2, 3, 4]


def weighted(sizes: list[int], cohort_size: int, draws: int) -> list[list[int]]:
    sampler = WeightedBySize()
    sampler.prepare(lambda: sizes)
    return [sampler.sample(len(sizes), cohort_size, number, seed=0) for number in range(draws)]


def test_a_cohort_of_one_is_drawn_in_proportion_to_size() -> None:
    # 4000 draws: standard deviations below 0.8 %
    counts = Counter(cohort[0] for cohort in weighted(SIZES, 1, 4000))
    for position, size in enumerate(SIZES):
        assert counts[position] / 4000 == pytest.approx(size / 10, abs=0.03)


def test_the_second_is_drawn_in_proportion_among_those_that_are_left() -> None:
    """The probability of the ordered pair (i, j) is ``n_i/N · n_j/(N - n_i)``."""
    counts = Counter(tuple(cohort) for cohort in weighted(SIZES, 2, 6000))
    for i, j in combinations(range(4), 2):
        for first, second in ((i, j), (j, i)):
            expected = SIZES[first] / 10 * SIZES[second] / (10 - SIZES[first])
            assert counts[first, second] / 6000 == pytest.approx(expected, abs=0.025)


def test_workers_without_examples_come_last() -> None:
    assert all(set(cohort) == {1, 3} for cohort in weighted([0, 5, 0, 1], 2, 50))


def test_sizes_are_learnt_once_and_from_the_population_if_it_can_tell() -> None:
    asked: list[str] = []

    class Sized(Population):
        def __len__(self) -> int:
            return 3

        def name(self, position: int) -> str:
            return "abc"[position]

        def __getitem__(self, name: str) -> pl.LightningDataModule:
            assert name == "b"
            return Rows([1.0])

        def num_examples(self, name: str) -> int:
            asked.append(name)
            return 1 if name == "b" else 0

        def has_loader(self, kind: str) -> bool:
            return False

    data = FederatedDataModule(Sized(), cohort_size=1, sampler=WeightedBySize(), rounds_per_epoch=2)
    fit(FederatedModule(Scalar(), aggregator=UniformMean()), data, max_epochs=2)
    assert asked[:3] == ["a", "b", "c"]
    assert asked.count("a") == 1


def test_with_a_uniform_mean_it_goes_to_the_mean_of_all_examples() -> None:
    """Without bias: over 400 cohorts of one the mean of what they want is that over all examples, (0 + 9·10)/10."""
    wanted: list[float] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            wanted.append(pl_module.module.x.item())

    workers = {"one": Rows([0.0]), "nine": Rows([10.0] * 9)}
    data = FederatedDataModule(workers, cohort_size=1, sampler=WeightedBySize(), rounds_per_epoch=400)
    fit(FederatedModule(Scalar(lr=1.0), aggregator=UniformMean()), data, callbacks=[Watch()])
    assert sum(wanted) / 400 == pytest.approx(9.0, abs=0.5)  # standard deviation 0.15


# ---- Poisson --------------------------------------------------------------------------------------------------------


def poisson(population: int, cohort_size: int, draws: int, seed: int = 0) -> list[list[int]]:
    return [Poisson().sample(population, cohort_size, number, seed) for number in range(draws)]


def test_every_worker_takes_part_at_the_rate() -> None:
    counts = Counter(position for cohort in poisson(20, 3, 4000) for position in cohort)
    for position in range(20):
        assert counts[position] / 4000 == pytest.approx(3 / 20, abs=0.025)  # standard deviation 0.0056


def test_the_size_of_a_cohort_is_binomial() -> None:
    sizes = [len(cohort) for cohort in poisson(20, 3, 4000)]
    mean = sum(sizes) / 4000
    assert mean == pytest.approx(3, abs=0.1)
    assert sum((size - mean) ** 2 for size in sizes) / 4000 == pytest.approx(20 * 0.15 * 0.85, abs=0.25)


def test_workers_take_part_independently_of_each_other() -> None:
    """Both of a pair at the square of the rate; in a cohort of fixed size it would be less, 3·2/(20·19) = 0.0158."""
    cohorts = [set(cohort) for cohort in poisson(20, 6, 6000)]
    together = [sum({i, j} <= cohort for cohort in cohorts) / 6000 for i, j in combinations(range(20), 2)]
    assert sum(together) / len(together) == pytest.approx(0.09, abs=0.002)  # of a fixed size it would be 0.0789
    assert min(together) > 0.07
    assert max(together) < 0.11


def test_the_extremes() -> None:
    assert all(sorted(cohort) == [0, 1, 2] for cohort in poisson(3, 3, 20))
    sizes = Counter(len(cohort) for cohort in poisson(2, 1, 2000))
    assert sizes[0] / 2000 == pytest.approx(0.25, abs=0.05)
    assert sizes[2] / 2000 == pytest.approx(0.25, abs=0.05)


@pytest.mark.parametrize("algorithm", [None, Scaffold(), FedDyn(0.1)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_a_whole_run_with_empty_cohorts(algorithm: Any, engine: Any) -> None:
    """An empty round changes nothing, and the run goes on; with logging, which has nothing to say about it."""
    seen: list[tuple[int, float]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            seen.append((len(pl_module.last_report.workers), pl_module.module.x.item()))

    options = {} if algorithm is None else {"algorithm": algorithm}
    federated = FederatedModule(Scalar(lr=0.1), engine=engine, **options)
    data = FederatedDataModule(
        {"a": Rows([1.0]), "b": Rows([2.0])}, cohort_size=1, sampler=Poisson(), rounds_per_epoch=20
    )
    run = fit(federated, data, callbacks=[Watch()])
    assert run.global_step == 20
    assert {size for size, _ in seen} == {0, 1, 2}
    before = 0.0
    for size, x in seen:
        assert (x == before) == (size == 0)
        before = x
    assert "loss" in run.callback_metrics
