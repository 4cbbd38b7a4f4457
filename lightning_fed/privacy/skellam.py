"""Skellam noise: the sum of workers' rounded updates, with a share of integer noise from each worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

from lightning_fed.core.arguments import number, settle
from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.mechanisms import Mechanism, Relation, check_noise, check_whole, distance
from lightning_fed.privacy.stochastic_rounding import BETA, rounded_norm

_TYPICAL_ORDER = 8
"""The order of the Rényi divergence that determines an ε of about 1."""


@final
@dataclass(frozen=True)
class SkellamSum(Mechanism):
    """A sum of integer vectors with Skellam noise (Agarwal, Kairouz, Liu 2021). RDP only.

    Each worker's vector has a norm of at most U before it is rounded, and of at most Δ₂ after (``rounded_norm`` of
    ``privacy.stochastic_rounding``), so Δ₁ = Δ₂ min(√d, Δ₂) bounds its L1 norm. The analysis
    covers the rounded vector of integers, so U itself may be any number. The sum's noise has the variance V = (zU)².
    Sums of Skellam numbers are Skellam numbers, so only the total V of the shares matters, not the number of workers.
    The Rényi divergence of integer orders α is at most ``αΔ₂²/2V + min{((2α−1)Δ₂² + 6Δ₁)/4V², 3Δ₁/2V}``. There is
    no amplification by sampling: participation is not secret, since the sum reveals the number of shares.

    Args:
        noise_multiplier: z, the standard deviation of the sum's noise in units of the clipping bound, which is U.
        units: U.
        dimension: The number d of coordinates that are released together.
        beta: β of the rounding; 0 for one without a condition.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If z is not positive, U less than 1, d no positive integer, or β not at least 0 and below 1.

    >>> from lightning_fed.privacy import Accountant
    >>> accountant = Accountant("rdp")
    >>> accountant.charge(SkellamSum(1.0, units=2**16, dimension=1_000_000))
    >>> round(accountant.epsilon(1e-5), 4)
    4.7529
    """

    relation: ClassVar[Relation] = "zero-out"
    whole_orders: ClassVar[bool] = True

    noise_multiplier: float
    units: float
    dimension: int
    beta: float = BETA

    def __post_init__(self) -> None:
        _check(self)

    @property
    def participation(self) -> str:
        return "no sampling: as if everyone took part in every release"

    def event(self, relation: Relation) -> Any:
        return _event(self, relation)


@final
@dataclass(frozen=True)
class LocalSkellam(Mechanism):
    """Integers with the noise of a single worker: a share of a :class:`SkellamSum`.

    It applies to observers of a worker's message, not only of the sum. The distance of two contributions is up to 2Δ₂.
    RDP only.

    Args:
        noise_multiplier: z of the share: that of the sum divided by √t.
        units: U, that of the sum.
        dimension: As for :class:`SkellamSum`.
        beta: As for :class:`SkellamSum`.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If z is not positive, U less than 1, d no positive integer, or β not at least 0 and below 1.
    """

    relation: ClassVar[Relation] = "replace-one"
    whole_orders: ClassVar[bool] = True

    noise_multiplier: float
    units: float
    dimension: int
    beta: float = BETA

    def __post_init__(self) -> None:
        _check(self)

    @property
    def participation(self) -> str:
        return "no sampling: for a worker that takes part in every round"

    def event(self, relation: Relation) -> Any:
        return _event(self, relation)


def _check(mechanism: SkellamSum | LocalSkellam) -> None:
    check_noise(mechanism)
    check_whole(mechanism, "dimension")
    settle(
        mechanism,
        units=number("units", mechanism.units, least=1, owner=mechanism),
        beta=number("beta", mechanism.beta, least=0, below=1, owner=mechanism),
    )


def _event(mechanism: SkellamSum | LocalSkellam, relation: Relation) -> Any:
    norm = rounded_norm(mechanism.units, mechanism.dimension, mechanism.beta)
    l2 = distance(relation) * norm
    l1 = l2 * min(math.sqrt(mechanism.dimension), norm)  # of integers, |k| is at most k²
    bounds = divergence_bounds(l1, l2, (mechanism.noise_multiplier * mechanism.units) ** 2)
    rho, xi = min(bounds, key=lambda bound: bound[0] * _TYPICAL_ORDER + bound[1])
    return import_extra("dp_accounting").ZCDpEvent(rho, xi)


def divergence_bounds(l1: float, l2: float, variance: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return two bounds on the Rényi divergence of Skellam noise that is shifted by integers.

    Agarwal, Kairouz, Liu, *The Skellam Mechanism for Differentially Private Federated Learning*, 2021, theorem 3.5 and
    its sum over coordinates. Either bound holds by itself.

    Args:
        l1: The largest L1 norm of the shift.
        l2: The largest L2 norm of the shift.
        variance: V, of the noise on each coordinate.

    Returns:
        Pairs (ρ, ξ); each bounds the divergence by ``ρ α + ξ`` at every integer order α above 1.

    >>> [round(2 * rho + xi, 3) for rho, xi in divergence_bounds(l1=3, l2=2, variance=10)]
    [0.475, 0.85]
    """
    gaussian = l2**2 / (2 * variance)
    return (
        (gaussian * (1 + 1 / variance), max(0.0, (6 * l1 - l2**2) / (4 * variance**2))),
        (gaussian, 3 * l1 / (2 * variance)),
    )
