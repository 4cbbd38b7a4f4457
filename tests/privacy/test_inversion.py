"""Integer noise: exact to 80 bits, as much as asked for, and the same numbers as one draws slowly."""

from __future__ import annotations

import bisect
import decimal
import math
import operator
import os
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import pytest
from scipy import special, stats

from lightning_fed.privacy import Noise
from lightning_fed.privacy.inversion import MOST_STD, InversionTable, skellam_table

SIZE = 400_000
VARIANCES = (0.01, 0.25, 1.0, 7.3, 100.0, 1e4, 1e6, float(MOST_STD**2))


def bytes_of(numbers: list[int]) -> bytes:
    """The bytes from which 80 bits are read, of numbers in units of 2⁻⁸⁰."""
    cells = np.array([number >> 64 for number in numbers], dtype="<u2").tobytes()
    return cells + np.array([number & (2**64 - 1) for number in numbers], dtype="<u8").tobytes()


def drawn(table: InversionTable, numbers: list[int]) -> list[int]:
    """What a table makes of numbers of 80 bits, each alone, so that its bytes come in order."""
    found: list[int] = []
    for number in numbers:
        given = iter((bytes_of([number])[:2], bytes_of([number])[2:]))
        found += table.drawn(1, lambda count, given=given: next(given)[:count]).tolist()  # type: ignore[misc]
    return found


def thresholds(table: InversionTable) -> list[int]:
    cells = np.searchsorted(table.first, np.arange(len(table.rest)), side="right") - 1
    return [(int(cell) << 64) + int(rest) for cell, rest in zip(cells, table.rest, strict=True)]


# ---- by hand ---------------------------------------------------------------------------------------------------------


def test_a_number_is_how_many_thresholds_are_no_larger_than_the_bits() -> None:
    first, second = 2**79 + 5, 2**79 + 9  # both in the cell 0x8000
    table = InversionTable.of(-1, [first, second])
    assert drawn(table, [0, first - 1, first, second - 1, second, 2**80 - 1]) == [-1, -1, 0, 0, 1, 1]


def test_bits_after_the_first_16_are_asked_for_where_those_leave_it_open() -> None:
    table, asked = InversionTable.of(0, [2**79 + 5]), []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return bytes_of([0, 2**79, 2**80 - 1])[:count] if len(asked) == 1 else bytes(count)

    assert table.drawn(3, entropy).tolist() == [0, 0, 1]
    assert asked == [6, 8]


@pytest.mark.parametrize("variance", [0.25, 1.0, 10.0, 300.0])
def test_probabilities_are_those_of_the_series_to_80_bits(variance: float) -> None:
    """That of the difference of two Poisson numbers: ``P(X = -k) = Σ_m Poisson(m) Poisson(m + k)``, with 60 digits."""
    table = skellam_table(variance)
    with decimal.localcontext() as context:
        context.prec = 60
        half, reach = Decimal(variance) / 2, 40 - table.least
        poisson = [(-half).exp() * half**k / math.factorial(k) for k in range(int(variance) + 2 * reach)]
        terms = (sum(map(operator.mul, poisson, poisson[k:]), Decimal(0)) for k in range(reach, 0, -1))
        below = list(accumulate(terms))[reach + table.least :]
        assert all(abs(found - p * 2**80) < 0.51 for found, p in zip(thresholds(table), below, strict=False))
        assert below[0] * 2**80 > 0.5 > (below[0] - Decimal(special.ive(-table.least, variance))) * 2**80


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_distribution_is_symmetric_to_the_last_bit_and_scipys_to_what_that_has(variance: float) -> None:
    table = skellam_table(variance)
    found = thresholds(table)
    assert found == sorted(found)
    assert found[0] > 0
    assert [2**80 - each for each in reversed(found)] == found
    assert len(found) == -2 * table.least
    probabilities = np.diff([0.0, *(each / 2**80 for each in found[: -table.least])])
    expected = special.ive(np.arange(-table.least, 0, -1), variance)
    assert np.abs(probabilities - expected).sum() < 1e-12


def test_a_table_is_made_once() -> None:
    assert skellam_table(12.5) is skellam_table(12.5)


# ---- equal to a simple sampler ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", VARIANCES)
def test_it_draws_what_a_search_among_all_thresholds_finds(variance: float) -> None:
    table, generator = skellam_table(variance), np.random.default_rng(0)
    found = thresholds(table)
    numbers = [int.from_bytes(generator.bytes(10), "little") for _ in range(2000)]
    edges = [found[i] for i in generator.integers(len(found), size=50)]
    numbers += edges + [edge - 1 for edge in edges] + [0, 2**80 - 1]
    assert drawn(table, numbers) == [table.least + bisect.bisect_right(found, number) for number in numbers]


def test_many_at_a_time_are_those_that_one_by_one_are_drawn() -> None:
    table, generator = skellam_table(1e4), np.random.default_rng(1)
    numbers = [int.from_bytes(generator.bytes(10), "little") for _ in range(5000)]
    cells = {count: number >> 64 for count, number in enumerate(numbers)}
    open_ = [numbers[i] for i, cell in cells.items() if table.first[cell] != table.first[cell + 1]]
    given = iter((bytes_of(numbers)[: 2 * len(numbers)], bytes_of(open_)[2 * len(open_) :]))
    assert table.drawn(len(numbers), lambda _: next(given)).tolist() == drawn(table, numbers)


# ---- as noise --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 0], ids=["secret", "seeded"])
@pytest.mark.parametrize("variance", VARIANCES)
def test_it_has_the_mean_and_the_variance_asked_for(variance: float, seed: int | None) -> None:
    noise = Noise(seed).skellam(SIZE, variance)
    assert noise.dtype == np.int32
    assert noise.shape == (SIZE,)
    errors = 4 if seed is not None else 5.5  # what is secret cannot be made to pass once and for all
    assert abs(noise.mean()) < errors * math.sqrt(variance / SIZE)
    # The fourth moment about the mean is 3V² + V.
    spread = math.sqrt((2 * variance**2 + variance) / SIZE)
    assert abs((noise.astype(np.float64) ** 2).mean() - variance) < errors * spread


def chi_squared(noise: Any, variance: float) -> float:
    """The probability of so large a χ², for cells of integers with at least 50 expected numbers each."""
    reach = int(15 * math.sqrt(variance)) + 30
    expected = special.ive(np.abs(np.arange(-reach, reach + 1)), variance) * len(noise)
    counts = np.bincount(noise + reach, minlength=2 * reach + 1)
    cells = (np.cumsum(expected) // 50).astype(int)
    cells[cells == cells.max()] = cells.max() - 1  # the last one may be smaller
    sums = [np.bincount(cells, weights=each) for each in (counts, expected)]
    seen, due = (each[sums[1] > 0] for each in sums)
    return float(stats.chi2.sf(((seen - due) ** 2 / due).sum(), len(due) - 1))


@pytest.mark.parametrize("variance", VARIANCES[1:])
def test_it_is_distributed_as_the_difference_of_two_poisson_numbers(variance: float) -> None:
    noise = Noise(2).skellam(SIZE, variance)
    assert chi_squared(noise, variance) > 1e-3
    assert chi_squared(noise + 1, variance) < 1e-9 or variance > 1e3, "a test that sees nothing"
    wrong = Noise(2).skellam(SIZE, 1.1 * variance) if variance < 4e7 else noise // 2 * 2
    assert chi_squared(wrong, variance) < 1e-9, "a test that sees nothing"


@pytest.mark.parametrize("variance", [1.0, 100.0, 1e6])
def test_tails_are_as_heavy_as_they_should_be(variance: float) -> None:
    noise = Noise(3).skellam(10 * SIZE, variance)
    for stds in (3, 4):
        least = math.ceil(stds * math.sqrt(variance))
        p = float(stats.skellam.sf(least - 1, variance / 2, variance / 2))
        for tail in (noise >= least, noise <= -least):
            assert abs(tail.mean() - p) < 4 * math.sqrt(p / noise.size)


@pytest.mark.parametrize("variance", [0.7, 90.0])
def test_shares_add_up_to_noise_of_the_same_kind(variance: float) -> None:
    shares = [Noise(4).skellam(SIZE, variance / 5, worker) for worker in range(5)]
    assert chi_squared(np.sum(shares, axis=0, dtype=np.int32), variance) > 1e-3
    for first, second in pairwise(shares):
        assert abs((first * second).mean()) < 4 * variance / 5 / math.sqrt(SIZE)


def test_it_is_a_function_of_the_seed_and_the_keys_and_secret_without_a_seed() -> None:
    draws = [
        Noise(seed).skellam(100, 1e4, *keys)
        for seed, keys in ((0, (0, "a")), (0, (0, "b")), (0, (1, "a")), (1, (0, "a")))
    ]
    draws += [Noise().skellam(100, 1e4, 0, "a") for _ in range(2)]
    assert len({each.tobytes() for each in draws}) == len(draws)
    assert np.array_equal(Noise(0).skellam(100, 1e4, 0, "a"), draws[0])


def test_a_seed_gives_it_other_bytes_than_the_chances_of_rounding_have() -> None:
    """For the same keys; else every fourth integer would follow from a chance."""
    noise = Noise(0).skellam(4000, 1e4, "bob")
    for first in range(4):
        assert abs(np.corrcoef(Noise(0).uniform(1000, "bob").numpy(), noise[first::4])[0, 1]) < 0.15


def test_a_long_draw_is_made_in_blocks_of_which_each_is_another() -> None:
    block = 2**16
    noise = Noise(5).skellam(2 * block + 3, 1e4)
    assert np.array_equal(noise[:block], Noise(5).skellam(block, 1e4))
    assert abs(np.corrcoef(noise[:block], noise[block : 2 * block])[0, 1]) < 5 / math.sqrt(block)
    assert len(Noise(5).skellam(1, 1e4)) == 1


def test_the_ends_of_the_bytes_are_the_ends_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    least = skellam_table(100.0).least
    for byte, end in ((b"\0", least), (b"\xff", -least)):
        monkeypatch.setattr(os, "urandom", lambda count, byte=byte: byte * count)
        assert Noise().skellam(2, 100.0).tolist() == [end, end]


@pytest.mark.parametrize("variance", [0.0, -1.0, MOST_STD**2 + 1.0, math.nan, math.inf])
def test_a_variance_is_positive_and_no_larger_than_a_table_can_be(variance: float) -> None:
    with pytest.raises(ValueError, match=r"variance=.* must be above 0 and at most 67108864"):
        Noise().skellam(3, variance)


def test_a_variance_is_a_number() -> None:
    with pytest.raises(TypeError, match="variance='1' must be a number"):
        Noise().skellam(3, "1")  # type: ignore[arg-type]
