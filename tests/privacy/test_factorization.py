"""Correlated noise: coefficients and errors by hand and by published values, streams against matrices, whole fits."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from helpers import Rows, Scalar, fit, trainer
from private import Net, Seen, people

from lightning_fed import CohortSampler, FederatedDataModule, FederatedModule, RoundRobin
from lightning_fed._lightning import pl
from lightning_fed.privacy import (
    DPFTRL,
    Accountant,
    BandedToeplitz,
    BufferedToeplitz,
    CorrelatedGaussian,
    Factorization,
    Gaussian,
    Noise,
    Setting,
    prefix_errors,
)
from lightning_fed.privacy.factorization import FactoredNoise, sensitivity
from lightning_fed.selection import MinSeparation, Uniform

FACTORIZATIONS = [BandedToeplitz(1), BandedToeplitz(4), BandedToeplitz(100), BufferedToeplitz(1), BufferedToeplitz()]


def toeplitz(coefficients: Any) -> Any:
    """The lower triangular matrix with this first column."""
    n = len(coefficients)
    matrix = np.zeros((n, n))
    for column in range(n):
        matrix[column:, column] = coefficients[: n - column]
    return matrix


def worst_sensitivity(coefficients: Any, separation: int) -> float:
    """By trying out every set of rounds in which a worker may take part."""
    matrix = toeplitz(coefficients)
    rounds = len(coefficients)
    worst = 0.0
    for chosen in range(1, 1 << rounds):
        places = [place for place in range(rounds) if chosen >> place & 1]
        if all(b - a >= separation for a, b in pairwise(places)):
            worst = max(worst, float(np.linalg.norm(matrix[:, places].sum(axis=1))))
    return worst


# ---- coefficients and what they cost --------------------------------------------------------------------------------


def test_the_square_root_of_the_prefix_sums() -> None:
    c = BandedToeplitz(6).coefficients(6, 6)
    assert c.tolist() == [1, 0.5, 0.375, 0.3125, 0.2734375, 0.24609375]
    assert toeplitz(c) @ toeplitz(c) == pytest.approx(np.tril(np.ones((6, 6))), abs=1e-15)


@pytest.mark.parametrize(
    ("rounds", "separation", "bands", "moved", "rms", "most"),
    [
        (100, 100, 100, 1.591022, 2.370658, 2.531352),
        (1000, 1000, 1000, 1.806932, 3.102239, 3.265003),
        (1000, 1000, 16, 1.394231, 7.137371, 9.967719),
        (100, 20, 20, 3.174815, 5.793084, 7.310934),
        (500, 100, 100, 3.557634, 6.948653, 8.558170),
        (1000, 100, 100, 5.031254, 12.103189, 15.688672),
        (1000, 100, 1, 3.162278, 70.746025, 100.0),
    ],
)
def test_values_that_others_have_computed(
    rounds: int, separation: int, bands: int, moved: float, rms: float, most: float
) -> None:
    c = BandedToeplitz(bands).coefficients(rounds, separation)
    assert sensitivity(c, separation) == pytest.approx(moved, abs=5e-7)
    assert prefix_errors(c, separation) == pytest.approx((rms, most), abs=5e-7)


@pytest.mark.parametrize("separation", [1, 2, 3, 5, 11])
@pytest.mark.parametrize("factorization", FACTORIZATIONS, ids=str)
def test_no_worker_moves_more_than_the_sensitivity(factorization: Factorization, separation: int) -> None:
    c = factorization.coefficients(11, separation)
    assert sensitivity(c, separation) == pytest.approx(worst_sensitivity(c, separation), rel=1e-12)


def test_bands_within_the_separation_cost_as_much_as_a_round_each() -> None:
    """‖c‖ √k: the columns of a worker's rounds do not overlap."""
    c = BandedToeplitz(20).coefficients(100, 20)
    assert sensitivity(c, 20) == pytest.approx(math.sqrt(5) * np.linalg.norm(c), rel=1e-14)


@pytest.mark.parametrize("factorization", FACTORIZATIONS, ids=str)
@pytest.mark.parametrize(("rounds", "separation"), [(1, 1), (2, 1), (7, 3), (300, 20), (5000, 1000)])
def test_coefficients_are_such_that_the_sensitivity_holds(
    factorization: Factorization, rounds: int, separation: int
) -> None:
    c = factorization.coefficients(rounds, separation)
    assert c.shape == (rounds,)
    assert c[0] == 1
    assert (c >= 0).all()
    assert (np.diff(c) <= 0).all()


@pytest.mark.parametrize("bad", [[1, 0.5, 0.6], [1, -0.1, -0.2], [1, math.nan, 0], [math.inf, 1, 0]])
def test_a_sensitivity_that_is_not_known_is_refused(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="must be finite, not negative, and none greater than the one before"):
        sensitivity(np.array(bad), 1)


@pytest.mark.parametrize(("rounds", "separation"), [(100, 100), (1000, 1000), (1000, 100), (2000, 20)])
def test_few_buffers_are_as_good_as_the_square_root(rounds: int, separation: int) -> None:
    """McMahan et al. 2024: a BLT of a few buffers is within a percent of the best Toeplitz matrix, or better."""
    banded = prefix_errors(BandedToeplitz(separation).coefficients(rounds, separation), separation)
    buffered = prefix_errors(BufferedToeplitz(3).coefficients(rounds, separation), separation)
    assert buffered.rms < 1.01 * banded.rms


def test_independent_noise_is_far_worse() -> None:
    alone = prefix_errors(BandedToeplitz(1).coefficients(1000, 100), 100)
    together = prefix_errors(BandedToeplitz(100).coefficients(1000, 100), 100)
    assert alone.rms > 5 * together.rms


# ---- streams ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factorization", FACTORIZATIONS, ids=str)
def test_a_stream_is_the_inverse_of_the_matrix(factorization: Factorization) -> None:
    """C w = z to 1e-12: twenty sums of float64 numbers of about one."""
    white = torch.randn(20, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    stream = factorization.stream(20, 5)
    noise = torch.stack([stream.step(row) for row in white])
    matrix = torch.from_numpy(toeplitz(factorization.coefficients(20, 5)))
    assert (matrix @ noise - white).abs().max() < 1e-12


@pytest.mark.parametrize("factorization", FACTORIZATIONS, ids=str)
def test_what_is_done_with_a_steps_noise_does_not_reach_the_next(factorization: Factorization) -> None:
    kept, changed = factorization.stream(5, 5), factorization.stream(5, 5)
    for _ in range(5):
        white = torch.ones(3, dtype=torch.float64)
        expected = kept.step(white.clone())
        noise = changed.step(white)
        assert torch.equal(noise, expected)
        noise.zero_()
        white.zero_()


def test_after_the_planned_rounds_an_independent_stream_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    Seen(monkeypatch)
    noise = FactoredNoise(Noise(), BandedToeplitz(2), rounds=3, separation=3)
    drawn = [noise.increment(1, 1.0).item() for _ in range(6)]
    assert drawn == [1.0, 0.5, 0.75] * 2  # w₁ = 1 − ½ w₀, w₂ = 1 − ½ w₁


# ---- the promise -----------------------------------------------------------------------------------------------------


def setting(**changes: Any) -> Setting:
    whole = Setting(population=40, cohort_size=2, sampling=RoundRobin, rounds=100, seed=0, separation=20)
    return whole._replace(**changes)


def test_the_whole_run_is_one_gaussian() -> None:
    promise = DPFTRL(clip=1.0, noise_multiplier=4.0, factorization=BandedToeplitz(20), delta=1e-5)
    run = promise.start(setting())
    for _ in range(100):
        run.charge()
    assert [count for _, count in run.accountant.history] == [1]
    alone = Accountant()
    alone.charge(Gaussian(4.0 / 3.1748148))
    assert run.spent == pytest.approx(alone.epsilon(1e-5), rel=1e-6)


def test_a_budget_gives_the_noise_of_the_whole_run() -> None:
    promise = DPFTRL(clip=1.0, epsilon=2.0, factorization=BufferedToeplitz(), delta=1e-5)
    run = promise.start(setting())
    assert run.affords_another()
    for _ in range(100):
        run.charge()
    assert 1.95 < run.spent <= 2.0
    assert not run.affords_another(), "the next round would begin another factorisation"


def test_the_less_a_worker_takes_part_the_less_it_costs() -> None:
    promise = DPFTRL(clip=1.0, noise_multiplier=4.0, factorization=BufferedToeplitz(), delta=1e-5)
    apart = []
    for separation in (1, 5, 20, 100):
        run = promise.start(setting(separation=separation))
        run.charge()
        apart.append(run.spent)
    assert apart == sorted(apart, reverse=True)


def test_it_needs_a_number_of_rounds() -> None:
    promise = DPFTRL(clip=1.0, noise_multiplier=4.0, factorization=BufferedToeplitz())
    with pytest.raises(ValueError, match="give the Trainer max_steps or max_epochs"):
        promise.start(setting(rounds=None))


def test_a_fit_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """lr 0: only noise. White noise of zC = 6, a mean over two a half of it: 3 (1, ½, ¾, …), summed up."""
    Seen(monkeypatch)
    module = Scalar(lr=0.0)
    fed = FederatedModule(module, privacy=DPFTRL(clip=3.0, noise_multiplier=2.0, factorization=BandedToeplitz(2)))
    xs: list[float] = []
    monkeypatch.setattr(type(fed), "on_train_batch_end", lambda *_: xs.append(-module.x.item()), raising=False)
    data = FederatedDataModule({f"w{i}": Rows([1.0]) for i in range(4)}, cohort_size=2)
    fit(fed, data, max_steps=3)
    assert xs == pytest.approx([3.0, 4.5, 6.75], rel=1e-5)
    assert isinstance(data.sampler, RoundRobin), "chosen for the user"
    assert fed.private_run is not None
    ((mechanism, count),) = fed.private_run.accountant.history
    assert count == 1
    # twice in three rounds, two apart: columns (1, ½, 0) and (0, 0, 1)
    assert mechanism == CorrelatedGaussian(2.0, sensitivity=1.5, rounds=3, separation=2)


@pytest.mark.parametrize(
    ("sampler", "separation"),
    [(RoundRobin(), 3), (MinSeparation(), 3), (MinSeparation(2), 2), (Uniform(), 1), (None, 1)],
)
def test_the_sampler_says_how_far_apart_a_workers_rounds_are(sampler: CohortSampler | None, separation: int) -> None:
    fed = FederatedModule(Net(), privacy=DPFTRL(clip=1.0, noise_multiplier=2.0, factorization=BandedToeplitz(3)))
    size = {} if sampler is None else {"cohort_size": 3, "sampler": sampler}
    fit(fed, FederatedDataModule(people(10), **size), max_steps=4)
    assert fed.private_run is not None
    assert fed.private_run.setting.separation == separation


def test_a_sampler_of_ones_own_is_believed_for_the_tree_too() -> None:
    class Backwards(CohortSampler):
        def sample(self, population: int, cohort_size: int, number: int, seed: int) -> list[int]:
            return [population - 1 - p for p in RoundRobin().sample(population, cohort_size, number, seed)]

        def separation(self, population: int, cohort_size: int) -> int:
            return population // cohort_size

    fed = FederatedModule(Net(), privacy=DPFTRL(clip=1.0, noise_multiplier=2.0))
    fit(fed, FederatedDataModule(people(6), cohort_size=2, sampler=Backwards()), max_steps=2)
    with pytest.raises(ValueError, match="nobody takes part twice"):
        fit(fed, FederatedDataModule(people(6), cohort_size=2, sampler=MinSeparation(2)), max_steps=2)


def test_separation_holds_while_workers_fail_and_over_a_resume(tmp_path: Any) -> None:
    """Over 30 rounds in three fits, in which one worker always fails, nobody comes within three rounds."""
    seen: dict[str, list[int]] = defaultdict(list)

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, cohort: Any, index: int) -> None:
            for worker in cohort.workers:
                seen[worker].append(cohort.number)

    path = None
    for steps in (7, 15, 30):
        promise = DPFTRL(clip=1.0, noise_multiplier=2.0, factorization=BufferedToeplitz())
        fed = FederatedModule(Net(), privacy=promise, on_worker_error="drop")
        workers: dict[str, Any] = {**people(9), "broken": Rows([])}
        data = FederatedDataModule(workers, cohort_size=3, sampler=MinSeparation())
        run = trainer(max_steps=steps, callbacks=[Watch()])
        run.fit(fed, data, ckpt_path=path)
        path = tmp_path / "run.ckpt"
        run.save_checkpoint(path)
    assert len(seen) == 10
    assert sum(map(len, seen.values())) == 90
    gaps = [b - a for numbers in seen.values() for a, b in pairwise(numbers)]
    assert min(gaps) == 3
