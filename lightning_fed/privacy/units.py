"""The resolution of integer updates: the clipping bound C corresponds to U units.

Each worker scales its update to a norm of at most U, rounds it to integers
(``privacy.stochastic_rounding``) and adds its share of Skellam noise, of variance ``(zU)²/t``. Sums of
integers modulo 2ᵇ are exact in any order, and t shares together are Skellam noise of variance ``(zU)²``
(:class:`~lightning_fed.privacy.SkellamSum`). More units make the rounding error smaller; the table of a share and the
integers of the sum bound them. A unit, ``C/U``, is a power of two (:func:`step_for`), so that an integer times a unit
is exact in a float; U is not a whole number then, as a rule.
"""

from __future__ import annotations

import math

from lightning_fed.core.arguments import number, whole
from lightning_fed.privacy.grid import power_of_two
from lightning_fed.privacy.inversion import MOST_STD

MOST_UNITS = 2**17
"""The largest number of units; the rounding error is then far below the noise."""

_LEAST, _MOST = 2.0**-900, 2.0**900
"""The range of clipping bounds whose units, and integers times units, are exact in float64."""

_STDS = 8
"""The margin of a sum, in standard deviations of its noise; beyond it, with probability 1e-15, the sum wraps around."""


def units_for(noise_multiplier: float, survivors: int) -> int:
    """Return the number of units U: 2¹⁷, or the largest number for which a worker's share of noise can be drawn.

    Args:
        noise_multiplier: z, the standard deviation of the sum's noise in units of the clipping bound.
        survivors: The number t of workers whose shares make up that noise.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or not a single unit is left.

    >>> units_for(noise_multiplier=1.0, survivors=100), units_for(noise_multiplier=8.0, survivors=100)
    (81920, 10240)
    """
    noise_multiplier, survivors = _checked(noise_multiplier, survivors)
    units = math.floor(min(MOST_UNITS, MOST_STD * math.sqrt(survivors) / noise_multiplier))
    if units < 1:
        raise _too_much_noise(noise_multiplier, survivors)
    return units


def step_for(bound: float, noise_multiplier: float, survivors: int) -> float:
    """Return the length of a unit: the smallest power of two for which the bound has at most :func:`units_for` units.

    Args:
        bound: The clipping bound C.
        noise_multiplier: z, as for :func:`units_for`.
        survivors: t.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or not a single unit is left.

    >>> step_for(1.0, noise_multiplier=1.0, survivors=100) == 2.0**-16  # of 81920 units, 65536
    True
    >>> 3.0 / step_for(3.0, noise_multiplier=1.0, survivors=100)
    49152.0
    """
    bound, most = number("bound", bound, above=0), units_for(noise_multiplier, survivors)
    if not _LEAST <= bound <= _MOST:
        raise ValueError(f"bound={bound:g} cannot be cut into units; give a clip= that is neither tiny nor huge")
    step = power_of_two(bound / most)
    while bound / step > most:
        step *= 2
    if bound / step < 1:
        raise _too_much_noise(noise_multiplier, survivors)
    return step


def share_variance(noise_multiplier: float, units: float, survivors: int) -> float:
    """Return the variance ``(zU)²/t`` of the noise that each worker adds.

    Args:
        noise_multiplier: z, as for :func:`units_for`.
        units: U.
        survivors: t.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> share_variance(noise_multiplier=0.5, units=100, survivors=10)
    250.0
    """
    noise_multiplier, survivors = _checked(noise_multiplier, survivors)
    return (noise_multiplier * number("units", units, least=1)) ** 2 / survivors


def check_fits(units: float, noise_multiplier: float, survivors: int, cohort_size: int, bits: int = 32) -> None:
    """Refuse a cohort whose sum, with 8 standard deviations of its noise, does not fit into integers of so many bits.

    The condition is ``n U + 8 z U √(n/t) < 2^(b-1)`` for n workers, since all of them add a share. A larger sum wraps
    around, which is equally private, but useless.

    Args:
        units: U.
        noise_multiplier: z.
        survivors: t.
        cohort_size: The largest number n of workers that reply.
        bits: b.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range, or the sum does not fit.

    >>> check_fits(2**17, noise_multiplier=1.0, survivors=1000, cohort_size=15_000)
    >>> check_fits(2**17, noise_multiplier=1.0, survivors=1000, cohort_size=17_000)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: cohort_size=17000: a sum of up to 2.23e+09 units does not fit into bits=32; lower cohort_size=, ...
    """
    noise_multiplier, survivors = _checked(noise_multiplier, survivors)
    units, cohort_size = number("units", units, least=1), whole("cohort_size", cohort_size, least=1)
    bits = whole("bits", bits, least=2, most=64)
    largest = units * (cohort_size + _STDS * noise_multiplier * math.sqrt(cohort_size / survivors))
    if largest >= 2 ** (bits - 1):
        raise ValueError(
            f"cohort_size={cohort_size}: a sum of up to {largest:.3g} units does not fit into bits={bits}; lower "
            "cohort_size=, or raise bits="
        )


def _too_much_noise(noise_multiplier: float, survivors: int) -> ValueError:
    return ValueError(
        f"noise_multiplier={noise_multiplier:g} is too much noise for survivors={survivors}: a worker's share of it is "
        f"above {MOST_STD} clipping bounds; lower noise_multiplier= or raise survivors="
    )


def _checked(noise_multiplier: object, survivors: object) -> tuple[float, int]:
    return number("noise_multiplier", noise_multiplier, above=0), whole("survivors", survivors, least=1)
