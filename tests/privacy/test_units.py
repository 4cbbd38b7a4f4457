"""The number of units: as many as can be drawn and summed, and refused where that is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.privacy.inversion import MOST_STD, skellam_table
from lightning_fed.privacy.units import MOST_UNITS, check_fits, share_variance, step_for, units_for


@pytest.mark.parametrize(
    ("noise_multiplier", "survivors", "units"),
    [
        (1.0, 1, 8192),
        (1.0, 100, 81920),
        (1.0, 256, 131072),  # 8192 · 16: both bounds at once
        (1.0, 1000, 131072),
        (0.5, 100, 131072),
        (3.0, 1, 2730),
        (8192.0, 1, 1),
    ],
)
def test_units_by_hand(noise_multiplier: float, survivors: int, units: int) -> None:
    assert units_for(noise_multiplier, survivors) == units


@given(noise_multiplier=st.floats(1e-3, 8e3), survivors=st.integers(1, 10_000))
def test_a_share_of_the_noise_can_always_be_drawn(noise_multiplier: float, survivors: int) -> None:
    units = units_for(noise_multiplier, survivors)
    assert 1 <= units <= MOST_UNITS
    assert share_variance(noise_multiplier, units, survivors) <= MOST_STD**2
    more = (noise_multiplier * (units + 1)) ** 2 / survivors
    assert units == MOST_UNITS or more > MOST_STD**2 * (1 - 1e-12), "one more could be"


def test_shares_make_up_the_noise_of_the_sum() -> None:
    assert share_variance(0.5, 100, 10) == 250.0
    assert 7 * share_variance(1.5, 40, 7) == pytest.approx((1.5 * 40) ** 2, rel=1e-15)
    assert skellam_table(share_variance(1.0, units_for(1.0, 1), 1)).least < -8192 * 9  # the widest there is


def test_too_much_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"noise_multiplier=8193 is too much noise for survivors=1: .* lower noise_"):
        units_for(8193.0, 1)
    assert units_for(8193.0, 2) == 1


@pytest.mark.parametrize(
    ("bound", "noise_multiplier", "survivors", "step"),
    [
        (1.0, 1.0, 100, 2.0**-16),  # of 81920 units, 65536
        (1.0, 1.0, 256, 2.0**-17),  # all 131072
        (3.0, 1.0, 256, 2.0**-15),  # of 131072 units, 98304
        (0.1, 3.0, 1, 2.0**-14),  # of 2730 units, 1638.4
        (1.5, 8192.0, 2, 2.0),  # of 1 unit, ¾, which is too few
    ],
)
def test_a_unit_is_a_power_of_two_by_hand(bound: float, noise_multiplier: float, survivors: int, step: float) -> None:
    if bound / step < 1:
        with pytest.raises(ValueError, match=r"too much noise for survivors=2"):
            step_for(bound, noise_multiplier, survivors)
    else:
        assert step_for(bound, noise_multiplier, survivors) == step


@given(bound=st.floats(1e-30, 1e30), noise_multiplier=st.floats(1e-3, 4e3), survivors=st.integers(1, 10_000))
def test_of_all_powers_of_two_the_least_that_is_enough(bound: float, noise_multiplier: float, survivors: int) -> None:
    step, most = step_for(bound, noise_multiplier, survivors), units_for(noise_multiplier, survivors)
    assert math.frexp(step)[0] == 0.5
    assert 1 <= bound / step <= most < 2 * bound / step
    assert share_variance(noise_multiplier, bound / step, survivors) <= MOST_STD**2


@pytest.mark.parametrize("bound", [5e-324, 1e-300, 1e300])
def test_a_bound_that_has_no_units_is_refused(bound: float) -> None:
    with pytest.raises(ValueError, match=r"bound=.* cannot be cut into units; give a clip= that is neither tiny"):
        step_for(bound, 1.0, 1)


@pytest.mark.parametrize(
    ("arguments", "bits"),
    [
        # n U + 8 z U √(n/t)
        ({"units": 10, "noise_multiplier": 1.0, "survivors": 4, "cohort_size": 4}, 8),  # 40 + 80 = 120
        ({"units": 10, "noise_multiplier": 1.0, "survivors": 1, "cohort_size": 4}, 9),  # 40 + 160 = 200
        ({"units": 8, "noise_multiplier": 2.0, "survivors": 16, "cohort_size": 16}, 10),  # 128 + 128 = 2⁸
        ({"units": 2**17, "noise_multiplier": 1.0, "survivors": 1000, "cohort_size": 15_000}, 32),
    ],
)
def test_a_sum_fits_into_the_bits_that_one_counts_by_hand(arguments: dict[str, Any], bits: int) -> None:
    check_fits(**arguments, bits=bits)
    with pytest.raises(ValueError, match=rf"cohort_size=.* does not fit into bits={bits - 1}; lower cohort_size=, or"):
        check_fits(**arguments, bits=bits - 1)


def test_it_is_32_bits_unless_something_else_is_said() -> None:
    check_fits(2**17, 1.0, 1000, 16_000)
    with pytest.raises(ValueError, match=r"a sum of up to 2\.23e\+09 units does not fit into bits=32"):
        check_fits(2**17, 1.0, 1000, 17_000)


GOOD: dict[str, Any] = {"units": 10, "noise_multiplier": 1.0, "survivors": 4, "cohort_size": 5, "bits": 32}


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("wrong", [0, -1, math.nan, math.inf, "1", None, True])
def test_arguments_out_of_range_are_named(name: str, wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=rf"{name}=.* must be"):
        check_fits(**{**GOOD, name: wrong})
    if name in ("noise_multiplier", "survivors"):
        pair = {"noise_multiplier": 1.0, "survivors": 4, name: wrong}
        with pytest.raises((TypeError, ValueError), match=rf"{name}=.* must be"):
            units_for(**pair)
        with pytest.raises((TypeError, ValueError), match=rf"{name}=.* must be"):
            step_for(1.0, **pair)
        with pytest.raises((TypeError, ValueError), match=rf"{name}=.* must be"):
            share_variance(**pair, units=3)
    if name == "units":
        with pytest.raises((TypeError, ValueError), match=r"units=.* must be"):
            share_variance(1.0, wrong, 4)
