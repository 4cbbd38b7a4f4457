"""The other way round: how much noise, or how many rounds, for a given ε."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import torch

from lightning_fed.core.arguments import instance, number, one_of, whole
from lightning_fed.privacy.accounting import (
    GRID,
    Accountant,
    Kind,
    check_delta,
    dp_accountant,
    without_remarks_about_orders,
)
from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.mechanisms import Mechanism

_QUICK_GRID = 1e-3
"""Ten times as fast, and what it finds is so near that the search on the fine grid is short."""


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
        ValueError: If an argument is out of range, or the noise would be above 1e7 or below 1e-3.
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
    dp_accounting = import_extra("dp_accounting")
    relation = mechanism(1.0).relation
    noise_multiplier, factor = 1.0, 2.0
    for grid in (GRID,) if kind == "rdp" else (_QUICK_GRID, GRID):

        def spent(noise_multiplier: float, grid: float = grid) -> float:
            accountant = Accountant(kind)
            accountant.charge(mechanism(noise_multiplier), rounds)
            return accountant.epsilon(delta, grid)

        low, high = _bracket(spent, epsilon, noise_multiplier, factor)
        with without_remarks_about_orders():
            noise_multiplier = dp_accounting.calibrate_dp_mechanism(
                lambda grid=grid: dp_accountant(kind, relation, grid),
                lambda z: dp_accounting.SelfComposedDpEvent(mechanism(z).event(relation), rounds),
                epsilon,
                delta,
                dp_accounting.ExplicitBracketInterval(low, high),
                tol=tolerance,
            )
        factor = 1.01
    return float(noise_multiplier)


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
    rounds = 0
    for grid in (GRID,) if known.kind == "rdp" else (_QUICK_GRID, GRID):

        def allowed(count: int, grid: float = grid) -> bool:
            return count <= most and known.epsilon_with(mechanism, delta, count, grid) <= epsilon

        # ε grows with the number of rounds: stride on from the last guess until it is too much, then halve.
        low = rounds if rounds and allowed(rounds) else 0
        high, stride = low + 1, 2
        while allowed(high):
            low, high, stride = high, high + stride, 2 * stride
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if allowed(middle) else (low, middle)
        rounds = low
    return rounds


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


def _bracket(spent: Callable[[float], float], epsilon: float, start: float, factor: float) -> tuple[float, float]:
    """A noise multiplier with which too much is spent, and one with which it is not."""
    low = high = start
    while spent(high) > epsilon:
        low, high = high, high * factor
        if high > 1e7:
            raise ValueError(f"no noise multiplier up to 1e7 gives epsilon={epsilon}: give a larger epsilon or delta")
    while spent(low) <= epsilon:
        low, high = low / factor, low
        if low < 1e-3:
            raise ValueError(f"a noise multiplier of 1e-3 is enough for epsilon={epsilon}: give a smaller epsilon")
    return low, high


def _check_budget(epsilon: object, delta: object) -> tuple[float, float]:
    return number("epsilon", epsilon, above=0), check_delta(delta)
