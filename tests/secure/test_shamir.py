"""Shares tell a secret when there are enough of them, and nothing when one is missing."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from lightning_fed.secure import shamir

SECRET = int.from_bytes(bytes(range(32)), "big")


def test_known_shares() -> None:
    """Threshold 3, coefficients 7 and 11: 7x + 11x² above the secret."""
    above = [shamir.value([SECRET, 7, 11], place) - SECRET for place in range(1, 6)]
    assert above == [18, 58, 120, 204, 310]


@pytest.mark.parametrize("places", list(itertools.combinations(range(1, 6), 3)))
def test_any_three_of_five(places: tuple[int, ...]) -> None:
    shares = dict(zip(range(1, 6), shamir.share(SECRET, 3, range(1, 6)), strict=True))
    assert shamir.combine({place: shares[place] for place in places}) == SECRET
    (other, *_) = shares.keys() - set(places)
    assert shamir.combine({place: shares[place] for place in places}, at=other) == shares[other]


@pytest.mark.parametrize("threshold", [31, 32, 33, 64, 100])
def test_a_value_is_that_of_the_polynomial_however_many_steps_are_not_reduced(threshold: int) -> None:
    coefficients = [SECRET + i for i in range(threshold)]
    for place in (1, 999, 2**32):
        expected = sum(c * place**i for i, c in enumerate(coefficients)) % shamir.PRIME
        assert shamir.value(coefficients, place) == expected
    places = range(3, 3 * threshold + 1, 3)
    shares = {place: shamir.value(coefficients, place) for place in places}
    assert shamir.combine(shares) == SECRET


def test_known_weights() -> None:
    """At 0 for the places 2, 3 and 4: 6, −8 and 3."""
    at = {2: (1, 0, 0), 3: (0, 1, 0), 4: (0, 0, 1)}
    rows = zip(*at.values(), strict=True)
    assert [shamir.combine(dict(zip(at, row, strict=True))) for row in rows] == [6, shamir.PRIME - 8, 3]


def test_the_field_is_prime() -> None:
    """Fermat's test with a few bases; no prime lies between 2²⁵⁶ and it."""
    assert all(pow(base, shamir.PRIME - 1, shamir.PRIME) == 1 for base in (2, 3, 5, 7, 11, 13))
    for smaller in range(2**256 + 1, shamir.PRIME, 2):
        assert pow(3, smaller - 1, smaller) != 1


def test_one_share_too_few_leaves_every_secret_equally_likely() -> None:
    """Over the field of 7, exhaustively: two shares of three, for every secret and all coefficients."""
    seen = {
        secret: Counter(
            (shamir.value([secret, a, b], 2, 7), shamir.value([secret, a, b], 5, 7)) for a in range(7) for b in range(7)
        )
        for secret in range(7)
    }
    assert all(counts == seen[0] for counts in seen.values())
    assert set(seen[0].values()) == {1}


def test_all_shares_of_a_small_field_come_up() -> None:
    """One coefficient modulo 7, at place 1: each value in 1 of 7 draws, 200 ± 13 times of 1400."""
    counts = Counter(shamir.share(5, 2, [1], prime=7)[0] for _ in range(1400))
    assert counts.keys() == set(range(7))
    assert all(abs(count - 200) < 6 * 13 for count in counts.values())


def test_shares_are_drawn_anew() -> None:
    assert shamir.share(SECRET, 2, [1]) != shamir.share(SECRET, 2, [1])
