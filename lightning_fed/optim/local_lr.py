"""Schedules of the workers' learning rate over rounds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

from lightning_fed.core.arguments import number, settle, whole
from lightning_fed.core.shown import Shown

_WHOLE = " must be positive, and a whole number"


class LocalLRSchedule(Shown, ABC):
    """Base of the schedules, which multiply the learning rate of ``configure_optimizers`` by a factor for each round.

    The user's own scheduler acts within a round; the factor multiplies its learning rate.
    """

    @abstractmethod
    def factor(self, round: int) -> float:
        """Return the factor of a round.

        Args:
            round: The number of rounds before this one.
        """


@final
@dataclass(frozen=True)
class ExponentialDecay(LocalLRSchedule):
    """``gammaʳ`` in round r.

    Args:
        gamma: The factor from one round to the next, positive.

    Raises:
        TypeError: If ``gamma`` is not a number.
        ValueError: If ``gamma`` is not positive and finite.

    >>> [ExponentialDecay(0.5).factor(round) for round in range(3)]
    [1.0, 0.5, 0.25]
    """

    gamma: float

    def __post_init__(self) -> None:
        settle(self, gamma=number("gamma", self.gamma, above=0))

    def factor(self, round: int) -> float:
        return float(self.gamma**round)


@final
@dataclass(frozen=True)
class StepDecay(LocalLRSchedule):
    """Multiplies the learning rate by ``gamma`` after every ``every`` rounds.

    Args:
        every: The number of rounds at the same learning rate.
        gamma: The factor, positive.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> [StepDecay(every=2, gamma=0.1).factor(round) for round in range(4)]
    [1.0, 1.0, 0.1, 0.1]
    """

    every: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        settle(self, every=whole("every", self.every, least=1, says=_WHOLE), gamma=number("gamma", self.gamma, above=0))

    def factor(self, round: int) -> float:
        return float(self.gamma ** (round // self.every))


@final
@dataclass(frozen=True)
class CosineDecay(LocalLRSchedule):
    """Half a cosine from 1 down to ``last`` (Loshchilov & Hutter 2017, without restarts).

    Args:
        rounds: The number of rounds after which the factor stays at the last value.
        last: The last value, at least 0.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.

    >>> [round(CosineDecay(rounds=4).factor(r), 3) for r in range(5)]
    [1.0, 0.854, 0.5, 0.146, 0.0]
    """

    rounds: int
    last: float = 0.0

    def __post_init__(self) -> None:
        settle(self, rounds=whole("rounds", self.rounds, least=1, says=_WHOLE), last=number("last", self.last, least=0))

    def factor(self, round: int) -> float:
        done = min(round / self.rounds, 1.0)
        return self.last + (1 - self.last) * (1 + math.cos(math.pi * done)) / 2
