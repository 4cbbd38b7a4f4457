"""Shamir's secret sharing: a polynomial of degree t - 1, which t values determine and t - 1 values do not reveal.

A. Shamir, *How to share a secret* (1979). The secret is the value at 0. Python's integer arithmetic is not constant
time: attackers who can measure the duration of a party's computation are outside of the threat model.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate

PRIME = 2**256 + 297
"""The smallest prime above 2²⁵⁶: secrets of 32 bytes are below it."""

_DRAWN_BITS = 512
"""The bits of a coefficient before it is reduced: the probabilities of two values differ by at most 2⁻²⁵⁵. This is
faster than drawing 257 bits and rejecting the half of the numbers above the prime."""
_UNREDUCED = 32
"""The number of steps of Horner's rule between reductions: places are small, and a division costs as much as the rest
of a step."""


def share(secret: int, threshold: int, places: Sequence[int], prime: int = PRIME) -> list[int]:
    """Return shares of a secret, at random.

    Args:
        secret: From 0 to ``prime - 1``.
        threshold: The number of shares that reveal the secret.
        places: The points of the polynomial; different numbers from 1 to ``prime - 1``.
        prime: The size of the field.
    """
    coefficients = [secret, *(secrets.randbits(_DRAWN_BITS) % prime for _ in range(threshold - 1))]
    return [value(coefficients, place, prime) for place in places]


def value(coefficients: Sequence[int], place: int, prime: int = PRIME) -> int:
    """Return the value of a polynomial.

    Args:
        coefficients: The coefficients, the constant one first.
        place: The point.
        prime: The size of the field.

    >>> [value((5, 7, 11), place) for place in (1, 2, 3)]
    [23, 63, 125]
    """
    total, descending = 0, coefficients[::-1]
    for begin in range(0, len(descending), _UNREDUCED):
        for coefficient in descending[begin : begin + _UNREDUCED]:
            total = total * place + coefficient
        total %= prime
    return total


def combine(shares: Mapping[int, int], prime: int = PRIME, at: int = 0) -> int:
    """Return the value of the polynomial on which shares lie.

    Args:
        shares: As many as the threshold, by their places.
        prime: The size of the field.
        at: The point of the value, which must not be a place of these shares; 0: the secret.

    >>> combine({2: 63, 1: 23, 3: 125})
    5
    """
    places = tuple(sorted(shares))
    weights = _weights(places, prime, at)
    return sum(weight * shares[place] for weight, place in zip(weights, places, strict=True)) % prime


@lru_cache(maxsize=4096)  # survivors are mostly the same for all secrets, and weights are the slowest part
def _weights(places: tuple[int, ...], prime: int, at: int) -> tuple[int, ...]:
    """Lagrange's weights: the value at a place is the weighted sum of the shares.

    The weight of xᵢ is Πⱼ (at − xⱼ), divided by (at − xᵢ) Πⱼ (xᵢ − xⱼ) without j = i. All divisors are inverted by way
    of the inverse of their product (Montgomery 1987), since an inverse is far slower than a multiplication.
    """
    divisors = []
    for i, place in enumerate(places):
        differences = map(place.__sub__, places[:i] + places[i + 1 :])
        divisors.append((at - place) * math.prod(differences) % prime)
    before = list(accumulate(divisors, lambda product, divisor: product * divisor % prime, initial=1))
    rest = pow(before[-1], -1, prime) * math.prod(map(at.__sub__, places)) % prime
    weights = []
    for divisor, product in zip(reversed(divisors), reversed(before[:-1]), strict=True):
        weights.append(rest * product % prime)
        rest = rest * divisor % prime
    return tuple(reversed(weights))
