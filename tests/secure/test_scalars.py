"""Single numbers in their ring: sums that are exact, for either sign and over the ring's end."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_fed.secure.scalars import FRACTION_BITS, decode, encode


@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=50))
def test_sums_of_fractions_of_the_step_are_exact(steps: list[int]) -> None:
    numbers = torch.tensor(steps, dtype=torch.float64) / 2.0**FRACTION_BITS
    assert decode(int(encode(numbers).sum())) == sum(steps) / 2.0**FRACTION_BITS


def test_the_largest_sum_of_half_a_million_workers_has_room() -> None:
    """2¹⁹ workers with 10⁶ each: 2¹⁹ · 10⁶ · 2²⁴ is below 2⁶³."""
    word = encode(torch.tensor([-1e6], dtype=torch.float64))
    assert decode(int(word * (2**19 - 1))) == -1e6 * (2**19 - 1)


def test_parts_may_wrap_around_as_long_as_the_sum_does_not() -> None:
    mask = torch.tensor([2**62, 2**62, 2**62], dtype=torch.int64)
    words = encode(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    assert decode(int((words + mask).sum() - mask.sum())) == 6.0
