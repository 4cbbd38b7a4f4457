"""Shamir's sharing of a secret: a polynomial of degree t - 1 of which t values tell all, and t - 1 nothing.

A. Shamir, *How to share a secret* (1979). The secret is the value at 0. Python's integers are no constant-time
arithmetic: whoever can measure how long a party computes is not kept out.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from functools import lru_cache

PRIME = 2**256 + 297
"""The smallest prime above 2²⁵⁶: secrets of 32 bytes are below it."""


def share(secret: int, threshold: int, places: Sequence[int], prime: int = PRIME) -> list[int]:
    """Return shares of a secret, at random.

    Args:
        secret: From 0 to ``prime - 1``.
        threshold: How many shares tell the secret.
        places: Where the polynomial is taken; different numbers from 1 to ``prime - 1``.
        prime: The size of the field.
    """
    coefficients = [secret, *(secrets.randbelow(prime) for _ in range(threshold - 1))]
    return [value(coefficients, place, prime) for place in places]


def value(coefficients: Sequence[int], place: int, prime: int = PRIME) -> int:
    """Return the value of a polynomial.

    Args:
        coefficients: Beginning with the constant one.
        place: Where.
        prime: The size of the field.

    >>> [value((5, 7, 11), place) for place in (1, 2, 3)]
    [23, 63, 125]
    """
    total = 0
    for coefficient in reversed(coefficients):
        total = (total * place + coefficient) % prime
    return total


def combine(shares: Mapping[int, int], prime: int = PRIME, at: int = 0) -> int:
    """Return the value of the polynomial on which shares lie.

    Args:
        shares: As many as the threshold, by their places.
        prime: The size of the field.
        at: Where the value is taken; 0: the secret.

    >>> combine({2: 63, 1: 23, 3: 125})
    5
    """
    places = tuple(sorted(shares))
    weights = _weights(places, prime, at)
    return sum(weight * shares[place] for weight, place in zip(weights, places, strict=True)) % prime


@lru_cache(maxsize=4096)  # survivors are mostly the same for all secrets, and weights cost more than all the rest
def _weights(places: tuple[int, ...], prime: int, at: int) -> tuple[int, ...]:
    """Lagrange's weights: the value at a place is the weighted sum of the shares."""
    weights = []
    for place in places:
        numerator = denominator = 1
        for other in places:
            if other != place:
                numerator = numerator * (at - other) % prime
                denominator = denominator * (place - other) % prime
        weights.append(numerator * pow(denominator, -1, prime) % prime)
    return tuple(weights)
