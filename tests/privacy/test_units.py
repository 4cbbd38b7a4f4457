"""The number of units: as many as can be drawn and summed, and refused where that is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.privacy.inversion import MOST_STD, skellam_table
from lightning_fed.privacy.units import MOST_UNITS, check_fits, share_variance, units_for


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
    with pytest.raises(ValueError, match=rf"cohort_size=.* does not fit into bits={bits - 1}; lower cohort_size= or u"):
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
            share_variance(**pair, units=3)
    if name == "units":
        with pytest.raises((TypeError, ValueError), match=r"units=.* must be"):
            share_variance(1.0, wrong, 4)
