"""Inverse accounting: the noise or the number of rounds for a target ε."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TypeAlias, get_args

import torch

from lightning_fed.core.arguments import instance, number, one_of, whole
from lightning_fed.privacy.accounting import Accountant, Kind, check_delta
from lightning_fed.privacy.accounting.composition import epsilon_of, suitable_grid
from lightning_fed.privacy.mechanisms import Mechanism

_Cost: TypeAlias = Callable[[Accountant], float]
"""A function that returns the ε of an accountant's charges."""

_COARSER = 4
"""The factors by which the grids of a search are coarser than the final one."""


def noise_for(
    epsilon: float,
    delta: float,
    rounds: int,
    mechanism: Callable[[float], Mechanism],
    kind: Kind = "pld",
    tolerance: float = 1e-5,
) -> float:
    """Return the smallest noise for which a number of rounds is (ε, δ)-differentially private, by dp-accounting.

    Args:
        epsilon: ε, above 0.
        delta: δ, above 0 and below 1.
        rounds: The number of releases of the mechanism.
        mechanism: Makes the mechanism from a noise multiplier, as ``partial(SubsampledGaussian, sampling_rate=0.01)``.
        kind: The accountant.
        tolerance: The largest excess of the result over the smallest noise multiplier. The result is never below it.

    Returns:
        The noise multiplier z.

    Raises:
        ValueError: If an argument is out of range, the accountant does not count the mechanism, or the noise would be
            above 1e7 or below 1e-3.
        ImportError: If dp-accounting is not installed.

    >>> from functools import partial
    >>> from lightning_fed.privacy import SubsampledGaussian
    >>> round(noise_for(2.0, 1e-5, 1000, partial(SubsampledGaussian, sampling_rate=0.01), kind="rdp"), 4)
    1.0223
    """
    epsilon, delta = _check_budget(epsilon, delta)
    rounds = whole("rounds", rounds, least=1, says=" must be a positive integer")
    tolerance = number("tolerance", tolerance, above=0)
    one_of("kind", kind, get_args(Kind))
    if not callable(mechanism):
        raise TypeError(f"mechanism={mechanism!r} must be a function that makes a mechanism from a noise multiplier")
    known = Accountant(kind)
    found = 1.0
    costs = _costs(known, mechanism(found), delta)
    for cost in costs:

        def spent(noise_multiplier: float, cost: _Cost = cost) -> float:
            return cost(known.after(mechanism(noise_multiplier), rounds))

        found = _least(spent, epsilon, found, tolerance if cost is costs[-1] else max(tolerance, 1e-3 * found))
    return found


def rounds_for(
    epsilon: float,
    delta: float,
    mechanism: Mechanism,
    accountant: Accountant | None = None,
    most: int = 1_000_000,
) -> int:
    """Return the number of (further) rounds that a budget allows.

    Args:
        epsilon: ε, above 0.
        delta: δ, above 0 and below 1.
        mechanism: The mechanism of each round.
        accountant: Holds the earlier charges, and is not changed. None: no charges, with ``pld``.
        most: The upper limit of the search.

    Returns:
        The largest number of rounds after which the total ε is at most ``epsilon``; at most ``most``.

    Raises:
        ValueError: If an argument is out of range, or the accountant cannot count the mechanism.
        ImportError: If dp-accounting is not installed.

    >>> from lightning_fed.privacy import SubsampledGaussian
    >>> rounds_for(2.0, 1e-5, SubsampledGaussian(1.0, sampling_rate=0.01), Accountant("rdp"))
    881
    """
    epsilon, delta = _check_budget(epsilon, delta)
    most = whole("most", most, least=1, says=" must be a positive integer")
    instance("mechanism", mechanism, Mechanism, "Gaussian(1.0)")
    known = Accountant() if accountant is None else instance("accountant", accountant, Accountant, "Accountant()")
    found = 0
    costs = _costs(known, mechanism, delta)
    for cost in costs:

        def spent(count: int, cost: _Cost = cost) -> float:
            return cost(known.after(mechanism, count)) if count else 0.0

        found = _last(spent, epsilon, found, most, slack=0.0 if cost is costs[-1] else 1e-3)
    return found


def analytic_gaussian_sigma(epsilon: float, delta: float, sensitivity: float) -> float:
    """Return the smallest noise for one Gaussian release: Balle & Wang 2018, theorem 8 and algorithm 1.

    The result is exact for every ε. The classic √(2 ln(1.25/δ))/ε is proved for ε ≤ 1 only, and is larger there.

    Args:
        epsilon: ε, above 0.
        delta: δ, above 0 and below 1.
        sensitivity: The largest L2 distance between the values of two neighbours: C for a sum of updates clipped to C
            in which a worker's contributions count, or zeros in their place; 2C for a single worker's noisy update.

    Returns:
        The standard deviation σ of the noise, in the units in which ``sensitivity`` is given (no multiple of it); to a
        relative 1e-12, never too small.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> round(analytic_gaussian_sigma(epsilon=1.0, delta=1e-5, sensitivity=1.0), 4)
    3.7306
    """
    epsilon, delta = _check_budget(epsilon, delta)
    sensitivity = number("sensitivity", sensitivity, above=0)
    low = high = 1.0
    while _log_delta(high, epsilon) > math.log(delta):
        low, high = high, 2 * high
    while _log_delta(low, epsilon) <= math.log(delta):
        low, high = low / 2, low
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if _log_delta(middle, epsilon) <= math.log(delta) else (middle, high)
    return high * sensitivity


def _log_delta(sigma: float, epsilon: float) -> float:
    """Logarithm of ``Φ(1/2σ - εσ) - exp(ε) Φ(-1/2σ - εσ)``, the exact δ at sensitivity 1; it falls with σ."""
    inner = torch.tensor([0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma], dtype=torch.float64)
    first, second = torch.special.log_ndtr(inner).tolist()
    # In logarithms, since exp(ε) overflows and Φ underflows where their product is an ordinary number.
    ratio = math.exp(min(epsilon + second - first, 0.0))
    return float(first + math.log1p(-ratio)) if ratio < 1 else -math.inf


def _costs(known: Accountant, mechanism: Mechanism, delta: float) -> list[_Cost]:
    """Return functions that compute ε, each more accurate and slower than the one before."""

    def rough(accountant: Accountant) -> float:
        return epsilon_of("rdp", accountant.history, delta, None)

    def coarse(accountant: Accountant) -> float:
        return accountant.epsilon(delta, _COARSER * suitable_grid(accountant.history))

    def right(accountant: Accountant) -> float:
        return accountant.epsilon(delta)

    if known.kind == "rdp":
        return [right]
    if rough(known.after(mechanism, 1)) == math.inf:  # not counted by RDP
        return [coarse, right]
    return [rough, coarse, right]


def _least(spent: Callable[[float], float], epsilon: float, start: float, tolerance: float) -> float:
    """Return the smallest noise multiplier that spends at most ε, or up to ``tolerance`` more.

    Args:
        spent: The ε of a noise multiplier; decreasing, usually at least in proportion.
        epsilon: The budget.
        start: The start of the search.
        tolerance: The largest excess of the result.

    Raises:
        ValueError: If the result would be above 1e7 or below 1e-3.
    """
    low = high = (start, spent(start))
    least = 1.0005
    while high[1] > epsilon:
        z = high[0] * min(max(least, high[1] / epsilon), 4.0)
        low, high, least = high, (z, spent(z)), least * least
        if z > 1e7:
            raise ValueError(f"no noise multiplier up to 1e7 gives epsilon={epsilon}: give a larger epsilon or delta")
    while low[1] <= epsilon:
        z = low[0] / min(max(least, epsilon / low[1] if low[1] else 4.0), 4.0)
        low, high, least = (z, spent(z)), low, least * least
        if z < 1e-3:
            raise ValueError(f"a noise multiplier of 1e-3 is enough for epsilon={epsilon}: give a smaller epsilon")
    return _crossing(spent, epsilon, low, high, max(tolerance, 1e-12 * high[0]))


def _crossing(
    spent: Callable[[float], float],
    epsilon: float,
    low: tuple[float, float],
    high: tuple[float, float],
    tolerance: float,
) -> float:
    """Return the point where a decreasing function crosses ε: regula falsi in logarithms (Dowell & Jarratt 1971).

    Args:
        spent: The function.
        epsilon: ε.
        low: A point and its value, above ε.
        high: A point and its value, at most ε.
        tolerance: The largest distance of the result above the crossing.
    """
    (left, over), (right, under) = (low[0], _off(low[1], epsilon)), (high[0], _off(high[1], epsilon))
    checked = right - left
    for turn in itertools.count(1):
        if right - left <= tolerance:
            return right
        part = over / (over - under)
        if turn % 4 == 0:
            part, checked = (0.5 if right - left > checked / 4 else part), right - left
        # At least half of the tolerance from either end, so both ends converge.
        z = min(max(left + part * (right - left), left + tolerance / 2), right - tolerance / 2)
        value = _off(spent(z), epsilon)
        if value > 0:
            left, over, under = z, value, under / 2
        else:
            right, under, over = z, value, over / 2
    raise AssertionError("the interval falls below every tolerance")


def _last(spent: Callable[[int], float], epsilon: float, start: int, most: int, slack: float) -> int:
    """Return the largest count, up to ``most``, that spends at most ε.

    Args:
        spent: The ε of a count; increasing.
        epsilon: The budget.
        start: The start of the search.
        most: The upper limit of the search.
        slack: The largest relative shortfall of the result.
    """
    low, high = 0, most + 1  # ε is sufficient for the first, but not for the second
    below, above = _off(0.0, epsilon), -_off(0.0, epsilon)
    at, stride, turn = min(max(start, 1), most), max(1, start // 256), 0
    while high - low > max(1, int(slack * low)):
        off = _off(spent(at), epsilon)
        if off <= 0:
            low, below, above = at, off, above / 2
        else:
            high, above, below = at, off, below / 2
        if high > most or low == 0:  # expand from the first guess until ε is crossed
            at, stride = (low + stride if high > most else high - stride), 4 * stride
        else:
            turn += 1
            part = 0.5 if turn % 4 == 0 else below / (below - above)
            at = low + round(part * (high - low))
        at = min(max(at, low + 1), high - 1)
    return low


def _off(value: float, epsilon: float) -> float:
    """Return the distance to ε, in logarithms."""
    return math.log(min(max(value / epsilon, 1e-9), 1e9))


def _check_budget(epsilon: object, delta: object) -> tuple[float, float]:
    return number("epsilon", epsilon, above=0), check_delta(delta)
