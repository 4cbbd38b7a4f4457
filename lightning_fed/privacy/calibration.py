"""The other way round: how much noise, or how many rounds, for a given ε."""

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
"""The ε of what an accountant has been charged with."""

_COARSER = 4
"""By how much coarser a grid is on which a search goes on; what it finds is so near that the rest is short."""


def noise_for(
    epsilon: float,
    delta: float,
    rounds: int,
    mechanism: Callable[[float], Mechanism],
    kind: Kind = "pld",
    tolerance: float = 1e-5,
) -> float:
    """Find the least noise with which a number of rounds is (ε, δ)-differentially private, by dp-accounting.

    Args:
        epsilon: ε, above 0.
        delta: δ, above 0 and below 1.
        rounds: How many times the mechanism is released.
        mechanism: Makes the mechanism from a noise multiplier, as ``partial(SubsampledGaussian, sampling_rate=0.01)``.
        kind: The accountant.
        tolerance: How far above the least noise multiplier the result may lie. It is never below.

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
    """Find how many (more) rounds a budget allows.

    Args:
        epsilon: ε, above 0.
        delta: δ, above 0 and below 1.
        mechanism: What each round releases.
        accountant: Knows what was spent before; it is not changed. None: nothing, counted with ``pld``.
        most: Look no further.

    Returns:
        The largest number of rounds after which the ε of everything is at most ``epsilon``; at most ``most``.

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
    """Find the least noise for one release by the Gaussian mechanism: Balle & Wang 2018, theorem 8 and algorithm 1.

    Exact for every ε, where the classic √(2 ln(1.25/δ))/ε is proved for ε ≤ 1 only and is more than is needed there.

    Args:
        epsilon: ε, above 0.
        delta: δ, above 0 and below 1.
        sensitivity: How far two neighbours' values can be apart, in L2: C for a worker more or fewer in a sum of
            updates clipped to C, 2C for an update that a worker noises by itself.

    Returns:
        The standard deviation σ of the noise, in the units of the sensitivity; to a relative 1e-12, never too small.

    Raises:
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
    """The logarithm of ``Φ(1/2σ - εσ) - exp(ε) Φ(-1/2σ - εσ)``, the exact δ at sensitivity 1; it falls with σ."""
    inner = torch.tensor([0.5 / sigma - epsilon * sigma, -0.5 / sigma - epsilon * sigma], dtype=torch.float64)
    first, second = torch.special.log_ndtr(inner).tolist()
    # In logarithms, since exp(ε) overflows and Φ underflows where their product is an ordinary number.
    ratio = math.exp(min(epsilon + second - first, 0.0))
    return float(first + math.log1p(-ratio)) if ratio < 1 else -math.inf


def _costs(known: Accountant, mechanism: Mechanism, delta: float) -> list[_Cost]:
    """The ways to compute ε one after another, each dearer than the one before and hardly different from it."""

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
    """The least noise multiplier with which no more than ε is spent, and at most ``tolerance`` above it.

    Args:
        spent: The ε of a noise multiplier; falls with it, as a rule at least in proportion.
        epsilon: The budget.
        start: Where to begin.
        tolerance: How much too large the result may be.

    Raises:
        ValueError: If it would be above 1e7 or below 1e-3.
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
    """Return where a falling function crosses ε: regula falsi in logarithms, Illinois rule (Dowell & Jarratt 1971).

    Args:
        spent: The function.
        epsilon: ε.
        low: A point and its value, above ε.
        high: A point and its value, at most ε.
        tolerance: How far above the crossing the result may be.
    """
    (left, over), (right, under) = (low[0], _off(low[1], epsilon)), (high[0], _off(high[1], epsilon))
    checked = right - left
    for turn in itertools.count(1):
        if right - left <= tolerance:
            return right
        part = over / (over - under)
        if turn % 4 == 0:
            part, checked = (0.5 if right - left > checked / 4 else part), right - left
        # Not nearer to an end than half of what is tolerated, so that both ends come together.
        z = min(max(left + part * (right - left), left + tolerance / 2), right - tolerance / 2)
        value = _off(spent(z), epsilon)
        if value > 0:
            left, over, under = z, value, under / 2
        else:
            right, under, over = z, value, over / 2
    raise AssertionError("the interval falls below every tolerance")


def _last(spent: Callable[[int], float], epsilon: float, start: int, most: int, slack: float) -> int:
    """The largest count, up to ``most``, with which no more than ε is spent.

    Args:
        spent: The ε of a count; grows with it.
        epsilon: The budget.
        start: Where to begin.
        most: Look no further.
        slack: How much too small the result may be, relatively.
    """
    low, high = 0, most + 1  # ε is enough for the first, and not for the second
    below, above = _off(0.0, epsilon), -_off(0.0, epsilon)
    at, stride, turn = min(max(start, 1), most), max(1, start // 256), 0
    while high - low > max(1, int(slack * low)):
        off = _off(spent(at), epsilon)
        if off <= 0:
            low, below, above = at, off, above / 2
        else:
            high, above, below = at, off, below / 2
        if high > most or low == 0:  # stride on from the first guess until ε is crossed
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
