"""Noise and rounds for a budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
from dp_accounting import LaplaceDpEvent, gaussian_mechanism

from lightning_fed.privacy import (
    Accountant,
    FixedSizeGaussian,
    Gaussian,
    Mechanism,
    Relation,
    SubsampledGaussian,
    TreeAggregation,
    analytic_gaussian_sigma,
    noise_for,
    rounds_for,
)

SAMPLED = partial(SubsampledGaussian, sampling_rate=0.01)


def epsilon(kind: str, mechanism: Mechanism, count: int, delta: float = 1e-5) -> float:
    accountant = Accountant(kind)  # type: ignore[arg-type]
    accountant.charge(mechanism, count)
    return accountant.epsilon(delta)


def test_reference_noise() -> None:
    assert noise_for(2.0, 1e-5, 1000, SAMPLED, "rdp") == pytest.approx(1.0223, abs=1e-4)
    assert noise_for(2.0, 1e-5, 1000, SAMPLED) == pytest.approx(0.9591, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "make", "rounds", "budget"),
    [
        ("rdp", SAMPLED, 1000, 2.0),
        ("pld", Gaussian, 10, 1.0),
        pytest.param("pld", partial(SubsampledGaussian, sampling_rate=0.2), 30, 2.0, marks=pytest.mark.slow),
        ("pld", partial(TreeAggregation, steps=10, epochs=3), 2, 3.0),
        pytest.param("rdp", partial(FixedSizeGaussian, cohort_size=10, population=100), 5, 4.0, marks=pytest.mark.slow),
    ],
)
def test_the_noise_is_enough_and_hardly_more(
    kind: str, make: Callable[[float], Mechanism], rounds: int, budget: float
) -> None:
    noise = noise_for(budget, 1e-5, rounds, make, kind)  # type: ignore[arg-type]
    assert epsilon(kind, make(noise), rounds) <= budget < epsilon(kind, make(noise - 1e-4), rounds)


def test_one_release_with_pld_is_the_analytic_gaussian() -> None:
    assert noise_for(1.0, 1e-5, 1, Gaussian) == pytest.approx(analytic_gaussian_sigma(1.0, 1e-5, 1.0), rel=1e-4)


@pytest.mark.parametrize("kind", ["rdp", "pld"])
def test_rounds_are_the_most_that_the_budget_allows(kind: str) -> None:
    mechanism = SubsampledGaussian(1.0, 0.05)
    fresh = Accountant(kind)  # type: ignore[arg-type]
    rounds = rounds_for(2.0, 1e-5, mechanism, fresh)
    assert epsilon(kind, mechanism, rounds) <= 2.0 < epsilon(kind, mechanism, rounds + 1)
    assert fresh.history == ()
    fresh.charge(mechanism, rounds - 3)
    assert rounds_for(2.0, 1e-5, mechanism, fresh) == 3
    fresh.charge(mechanism, 4)
    assert rounds_for(2.0, 1e-5, mechanism, fresh) == 0


def test_rounds_after_others() -> None:
    accountant = Accountant("rdp")
    accountant.charge(Gaussian(2.0))
    rounds = rounds_for(3.0, 1e-5, SubsampledGaussian(1.0, 0.01), accountant)
    assert 0 < rounds < rounds_for(3.0, 1e-5, SubsampledGaussian(1.0, 0.01), Accountant("rdp"))
    assert accountant.epsilon_with(SubsampledGaussian(1.0, 0.01), 1e-5, rounds) <= 3.0
    assert accountant.epsilon_with(SubsampledGaussian(1.0, 0.01), 1e-5, rounds + 1) > 3.0


def test_rounds_are_looked_for_up_to_a_limit() -> None:
    assert rounds_for(2.0, 1e-5, SubsampledGaussian(1.0, 0.01), Accountant("rdp"), most=100) == 100
    assert rounds_for(2.0, 1e-5, SubsampledGaussian(1.0, 0.01), Accountant("rdp"), most=881) == 881
    assert rounds_for(2.0, 1e-5, SubsampledGaussian(1.0, 0.01), most=7) == 7
    assert rounds_for(0.1, 1e-5, Gaussian(1.0)) == 0


@pytest.mark.slow
def test_a_million_rounds_and_next_to_no_noise_are_no_matter() -> None:
    """They took minutes, or all memory, on a grid that does not suit them."""
    few = partial(SubsampledGaussian, sampling_rate=0.001)
    began = time.process_time()
    noise = noise_for(1.0, 2.5e-7, 10**6, few, tolerance=1e-3)
    assert epsilon("pld", few(noise), 10**6, 2.5e-7) <= 1.0 < epsilon("pld", few(noise - 1.1e-3), 10**6, 2.5e-7)
    rounds = rounds_for(50.0, 1e-5, SAMPLED(0.3))
    assert epsilon("pld", SAMPLED(0.3), rounds) <= 50.0 < epsilon("pld", SAMPLED(0.3), rounds + 1)
    assert time.process_time() - began < 60, "some seconds, with much to spare"


def test_a_foreign_mechanism_is_calibrated_too() -> None:
    @dataclass(frozen=True)
    class Laplace(Mechanism):
        relation: ClassVar[Relation] = "add/remove"
        noise_multiplier: float

        def event(self, relation: Relation) -> Any:
            return LaplaceDpEvent(self.noise_multiplier)

    noise = noise_for(1.5, 1e-5, 3, Laplace)
    assert epsilon("pld", Laplace(noise), 3) <= 1.5 < epsilon("pld", Laplace(noise - 1e-4), 3)
    assert noise == pytest.approx(2.0, rel=1e-3), "nearly 3 / z, what it costs at δ = 0"
    assert rounds_for(1.501, 1e-5, Laplace(2.0)) == 3


def exact_delta(sigma: float, epsilon: float) -> float:
    """Balle & Wang 2018, equation 6, with sensitivity 1."""

    def normal(x: float) -> float:
        return math.erfc(-x / math.sqrt(2)) / 2

    a, b = 1 / (2 * sigma), epsilon * sigma
    return normal(a - b) - math.exp(epsilon) * normal(-a - b)


@pytest.mark.parametrize("budget", [1e-3, 0.1, 1.0, 8.0, 30.0])
@pytest.mark.parametrize("delta", [0.3, 1e-2, 1e-5, 1e-9])
def test_the_analytic_gaussian_meets_delta_exactly(budget: float, delta: float) -> None:
    sigma = analytic_gaussian_sigma(budget, delta, 1.0)
    assert exact_delta(sigma, budget) == pytest.approx(delta, rel=1e-6)
    assert sigma == pytest.approx(gaussian_mechanism.get_sigma_gaussian(budget, delta), rel=1e-9)
    assert analytic_gaussian_sigma(budget, delta, 2.5) == pytest.approx(2.5 * sigma, rel=1e-12)


def test_the_analytic_gaussian_against_the_classic_one() -> None:
    """The classic σ is too much where it is proved, and not enough where it is not."""

    def classic(budget: float) -> float:
        return math.sqrt(2 * math.log(1.25 / 1e-5)) / budget

    assert analytic_gaussian_sigma(1.0, 1e-5, 1.0) == pytest.approx(3.7306, abs=1e-4)
    assert analytic_gaussian_sigma(1.0, 1e-5, 1.0) < classic(1.0)
    assert analytic_gaussian_sigma(100.0, 1e-5, 1.0) > classic(100.0)
    assert math.isfinite(analytic_gaussian_sigma(5000.0, 1e-5, 1.0)), "exp(5000) is no float"


def test_wrong_arguments() -> None:
    for wrong in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ValueError, match=r"epsilon=.* must be positive and finite"):
            noise_for(wrong, 1e-5, 1, Gaussian)
        with pytest.raises(ValueError, match=r"sensitivity=.* must be positive and finite"):
            analytic_gaussian_sigma(1.0, 1e-5, wrong)
    for wrong in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"delta=.* must be above 0 and below 1"):
            rounds_for(1.0, wrong, Gaussian(1.0))
        with pytest.raises(ValueError, match=r"delta=.* must be above 0 and below 1"):
            analytic_gaussian_sigma(1.0, wrong, 1.0)
    with pytest.raises(ValueError, match=r"rounds=0 must be a positive integer"):
        noise_for(1.0, 1e-5, 0, Gaussian)
    with pytest.raises(ValueError, match=r"most=0 must be a positive integer"):
        rounds_for(1.0, 1e-5, Gaussian(1.0), most=0)
    with pytest.raises(ValueError, match=r"tolerance=0\.0 must be positive"):
        noise_for(1.0, 1e-5, 1, Gaussian, tolerance=0.0)


def test_budgets_beyond_all_noise() -> None:
    with pytest.raises(ValueError, match=r"no noise multiplier up to 1e7 gives epsilon=0\.0001: give a larger"):
        noise_for(1e-4, 1e-9, 1, Gaussian, "rdp")
    with pytest.raises(ValueError, match=r"a noise multiplier of 1e-3 is enough for epsilon=1000000000\.0"):
        noise_for(1e9, 1e-5, 1, Gaussian, "rdp")
