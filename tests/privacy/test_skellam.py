"""The account of integer noise: published bounds, exact divergences below them, and the strict ε of whole orders."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import dp_accounting
import numpy as np
import pytest
from dp_accounting.rdp import RdpAccountant, compute_epsilon
from scipy import special

from lightning_fed.privacy import Accountant, Gaussian, LocalGaussian, LocalSkellam, SkellamSum, noise_for, rounds_for
from lightning_fed.privacy.accounting import tightest
from lightning_fed.privacy.skellam import divergence_bounds
from lightning_fed.privacy.stochastic_rounding import BETA, rounded_norm

ZERO_OUT = dp_accounting.NeighboringRelation.REPLACE_SPECIAL


def divergence(order: float, l1: float, l2: float, variance: float) -> float:
    """Agarwal, Kairouz, Liu 2021, as it is written there."""
    small = ((2 * order - 1) * l2**2 + 6 * l1) / (4 * variance**2)
    return order * l2**2 / (2 * variance) + min(small, 3 * l1 / (2 * variance))


# ---- known answers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "l1", "l2", "variance", "value"), [(2, 3, 2, 10, 0.475), (16, 100, 10, 1e4, 0.08000925)]
)
def test_divergences_by_hand(order: float, l1: float, l2: float, variance: float, value: float) -> None:
    assert divergence(order, l1, l2, variance) == pytest.approx(value, rel=1e-12)
    bounds = divergence_bounds(l1, l2, variance)
    assert min(rho * order + xi for rho, xi in bounds) == pytest.approx(value, rel=1e-12)


TABLE = [
    # U, d, z; Δ₂, Δ₂²/2V, ε of one release and of 100 at dp-accounting's default orders; ε of one without a condition
    (2**16, 10**6, 1.0, 65538.4, 0.500036792, 4.72871, 96.12183, 4.81153),
    (2**12, 10**5, 1.0, 4099.57, 0.50087187, 4.73322, 96.24709, 5.15134),
    (2**17, 25 * 10**6, 2.0, 131096, 0.125046447, 2.16616, 35.09058, 2.25755),
    (2**8, 10**4, 1.0, 261.423, 0.521416037, 4.84400, 99.32923, 6.93852),
]


@pytest.mark.parametrize(("units", "size", "z", "norm", "rho", "once", "often", "without"), TABLE)
def test_what_dp_accounting_makes_of_the_event(
    units: int, size: int, z: float, norm: float, rho: float, once: float, often: float, without: float
) -> None:
    def epsilon(mechanism: SkellamSum, count: int) -> float:
        accountant = RdpAccountant(neighboring_relation=ZERO_OUT).compose(mechanism.event("zero-out"), count)
        return float(accountant.get_epsilon(1e-5))

    mechanism = SkellamSum(z, units, size)
    event = mechanism.event("zero-out")
    assert rounded_norm(units, size) == pytest.approx(norm, rel=5e-6)
    assert event.rho == pytest.approx(rho, rel=1e-4)
    assert epsilon(mechanism, 1) == pytest.approx(once, abs=6e-6)
    assert epsilon(mechanism, 100) == pytest.approx(often, abs=6e-6)
    assert epsilon(SkellamSum(z, units, size, beta=0), 1) == pytest.approx(without, abs=6e-6)


@pytest.mark.parametrize(("bits", "epsilon", "digits"), [(12, 7.12, 2), (14, 4.91, 2), (16, 4.763, 3), (18, 4.7534, 4)])
def test_too_few_units_cost_privacy(bits: int, epsilon: float, digits: int) -> None:
    """So many as 100 workers' sums have in a ring after a rotation: √(4ᵇ − 16n) / (8 √(n²/d + 1)), Kairouz et al."""
    n, size = 100, 2**20
    units = math.floor(math.sqrt(4.0**bits - 16 * n) / (8 * math.sqrt(n**2 / size + 1)))
    assert strict(SkellamSum(1.0, units, size)) == pytest.approx(epsilon, abs=0.6 * 10**-digits)


def strict(mechanism: SkellamSum, count: int = 1, delta: float = 1e-5) -> float:
    accountant = Accountant("rdp")
    accountant.charge(mechanism, count)
    return accountant.epsilon(delta)


# ---- the bound holds -------------------------------------------------------------------------------------------------


def exact(order: float, shift: int, variance: float) -> float:
    """The Rényi divergence of Skellam noise from what is shifted, by its probabilities; nats."""
    reach = int(60 * math.sqrt(variance) + 80)
    p = special.ive(np.abs(np.arange(-reach, reach + 1)), variance)
    first, second = p[shift:], p[:-shift]
    there = (first > 1e-300) & (second > 1e-300)
    powers = order * np.log(first[there]) + (1 - order) * np.log(second[there])
    return float(special.logsumexp(powers)) / (order - 1)


@pytest.mark.parametrize("variance", [1.0, 4.0, 25.0, 100.0, 1000.0])
@pytest.mark.parametrize("shift", [1, 3])
def test_exact_divergences_are_below_both_bounds(variance: float, shift: int) -> None:
    for order in (2, 3, 8, 32):
        found = exact(order, shift, variance)
        for rho, xi in divergence_bounds(shift, shift, variance):
            assert 0 < found <= rho * order + xi
        assert found > 0.8 * divergence(order, shift, shift, variance) or variance < 100, "a bound that says nothing"


def test_exact_epsilon_of_one_number_is_below_what_is_claimed() -> None:
    """d = 1, U = 3: a worker moves one integer by Δ₂ = √(9 + ¼ + 3 + ½) at most, so by 3."""
    mechanism = SkellamSum(2.0, units=3, dimension=1)
    assert math.floor(rounded_norm(3, 1)) == 3
    orders = list(range(2, 65))
    divergences = np.array([exact(order, 3, 36.0) for order in orders])
    for count in (1, 10):
        found, _ = compute_epsilon(orders, count * divergences, 1e-5)
        assert 0.7 * strict(mechanism, count) < float(found) < strict(mechanism, count)


# ---- orders ----------------------------------------------------------------------------------------------------------

SETTINGS = [(z, units, size) for z in (0.5, 1.0, 4.0) for units in (1, 30, 2**10, 2**17) for size in (1, 1000, 2**20)]
"""36 of them."""


@pytest.mark.parametrize(("z", "units", "size"), SETTINGS)
@pytest.mark.parametrize("count", [1, 100])
def test_epsilon_is_that_of_whole_orders_of_the_formula(z: float, units: int, size: int, count: int) -> None:
    """The least over orders is that of one bound or of the other, but where they cross close to it."""
    norm, variance = rounded_norm(units, size), (z * units) ** 2
    l1, orders = norm * min(math.sqrt(size), norm), [*range(2, 65), 128, 256, 512, 1024]
    formula = [count * divergence(order, l1, norm, variance) for order in orders]
    expected, _ = compute_epsilon(orders, formula, 1e-5)
    found = strict(SkellamSum(z, units, size), count)
    assert found >= float(expected) * (1 - 1e-12), "less than was proved"
    assert found <= float(expected) * (1.02 if min(units, size) == 1 else 1 + 1e-4)


def test_between_whole_orders_nothing_is_claimed() -> None:
    mechanism = SkellamSum(1.0, 2**16, 10**6)
    assert strict(mechanism) == pytest.approx(4.75291, abs=6e-6)  # and 4.72871 with orders such as 5.7
    assert strict(mechanism, 100) == pytest.approx(110.13399, abs=6e-6)  # and 96.12183 with 1.5
    several = Accountant("rdp")
    several.charge(Gaussian(1.0), 100)
    alone = several.epsilon(1e-5)
    several.charge(SkellamSum(100.0, 2**16, 10**6))  # leaves the Gaussian's own orders as they are
    assert alone < several.epsilon(1e-5) < 1.001 * alone


def test_the_more_units_the_nearer_it_comes_to_gaussian_noise() -> None:
    size, orders = 1000, list(range(2, 65))
    gaussian, _ = compute_epsilon(orders, [order / 2 for order in orders], 1e-5)
    excess = [strict(SkellamSum(1.0, units, size)) / float(gaussian) - 1 for units in (2**6, 2**10, 2**14, 2**17)]
    assert excess == sorted(excess, reverse=True)
    assert 0 < excess[-1] < 1e-4


# ---- as a mechanism --------------------------------------------------------------------------------------------------


def test_it_is_counted_by_rdp_and_by_nothing_else() -> None:
    mechanism = SkellamSum(1.0, 2**16, 1000)
    assert tightest(mechanism) == "rdp"
    with pytest.raises(ValueError, match=r'SkellamSum has no privacy loss distribution: take Accountant\(kind="rdp"\)'):
        Accountant("pld").charge(mechanism)


def test_replaced_workers_are_twice_as_far_apart() -> None:
    mechanism = SkellamSum(1.0, 100, 50, beta=0)
    norm, variance = 100 + math.sqrt(50), 100.0**2
    event = mechanism.event("replace-one")
    assert (event.rho, event.xi) == pytest.approx(
        divergence_bounds(2 * norm * math.sqrt(50), 2 * norm, variance)[0], rel=1e-12
    )
    accountant = Accountant("rdp")
    accountant.charge(mechanism)
    alone = accountant.epsilon(1e-5)
    accountant.charge(LocalGaussian(1e4))
    assert accountant.relation == "replace-one"
    assert accountant.epsilon(1e-5) > 2 * alone


def test_a_share_by_itself_hides_one_update_behind_another() -> None:
    """It is the same noise, and any two updates are twice as far apart as one is from zeros."""
    alone, together = LocalSkellam(2.0, 100.5, 50), SkellamSum(2.0, 100.5, 50)
    assert alone.event("replace-one") == together.event("replace-one")
    assert tightest(alone) == "rdp"
    accountant = Accountant("rdp")
    accountant.charge(alone)
    assert accountant.relation == "replace-one"
    assert accountant.epsilon(1e-5) == pytest.approx(strict(SkellamSum(1.0, 100.5, 50)), rel=0.05)


def test_units_need_not_be_whole() -> None:
    """What is accounted are integers, so that U is a number as any other."""
    below, between, above = (strict(SkellamSum(1.0, units, 1000)) for units in (64, 64.5, 65))
    assert below > between > above


def test_the_bound_on_the_l1_norm_is_the_lesser_one() -> None:
    """Of d numbers √d Δ₂; of integers never more than Δ₂²."""
    for units, size, l1 in ((100, 4, 2.0), (1, 100, None)):
        norm = rounded_norm(units, size)
        event = SkellamSum(1.0, units, size).event("zero-out")
        bounds = divergence_bounds(norm * (l1 or norm), norm, float(units) ** 2)
        assert (event.rho, event.xi) in bounds


def test_noise_and_rounds_are_found_for_a_budget() -> None:
    make: Any = partial(SkellamSum, units=2**16, dimension=10**4)
    z = noise_for(2.0, 1e-5, 10, make, kind="rdp")
    assert 1.999 < strict(make(z), 10) <= 2.0
    assert rounds_for(2.0, 1e-5, make(z), Accountant("rdp")) == 10


def test_a_checkpoint_keeps_all_that_its_cost_depends_on() -> None:
    accountant = Accountant("rdp")
    accountant.charge(SkellamSum(1.5, 2**10, 1000, beta=0.25), 3)
    state = accountant.state_dict()
    assert state["history"] == [
        {
            "mechanism": "SkellamSum",
            "parameters": {"noise_multiplier": 1.5, "units": 1024, "dimension": 1000, "beta": 0.25},
            "count": 3,
        }
    ]
    resumed = Accountant("rdp")
    resumed.load_state_dict(state)
    assert resumed.epsilon(1e-5) == accountant.epsilon(1e-5)


def test_as_much_is_promised_as_today_without_a_sampling_of_workers() -> None:
    assert SkellamSum(1.0, 10, 10).participation.startswith("no sampling")
    assert SkellamSum(1.0, 10, 10).beta == BETA
    assert SkellamSum(1.0, 10, 10).relation == "zero-out"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"units": 0}, r"\(units=0\) must be at least 1"),
        ({"units": 0.5}, r"\(units=0\.5\) must be at least 1"),
        ({"dimension": 0}, r"\(dimension=0\) must be a positive integer"),
        ({"noise_multiplier": 0.0}, r"\(noise_multiplier=0\.0\) must be positive and finite"),
        ({"beta": 1.0}, r"\(beta=1\.0\) must be at least 0 and below 1"),
        ({"beta": -0.1}, r"\(beta=-0\.1\) must be"),
    ],
)
def test_settings_out_of_range(options: dict[str, Any], message: str) -> None:
    for kind in (SkellamSum, LocalSkellam):
        with pytest.raises(ValueError, match=kind.__name__ + message):
            kind(**{"noise_multiplier": 1.0, "units": 10, "dimension": 10, **options})
