"""Cost of a promise over a number of rounds, as a run would be charged, without model or data."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from lightning_fed.core.arguments import nearest
from lightning_fed.privacy.accounting import Accountant, Kind, tightest
from lightning_fed.privacy.base import Privacy
from lightning_fed.privacy.calibration import noise_for
from lightning_fed.privacy.mechanisms import Mechanism
from lightning_fed.privacy.run import Setting, neighbours


def promises() -> dict[str, type[Privacy]]:
    """Return all promises that the program has defined, by the name of the class."""
    found: dict[str, type[Privacy]] = {}
    waiting = Privacy.__subclasses__()
    while waiting:
        kind = waiting.pop(0)
        waiting += kind.__subclasses__()
        if not inspect.isabstract(kind):
            found[kind.__name__] = kind
    return found


def promise_of(name: str) -> type[Privacy]:
    """Return a promise by the name of its class; neither case nor ``DP`` at the end matter.

    Args:
        name: Such as ``CentralDP``, ``centraldp`` or ``central``.

    Raises:
        ValueError: If there is none, or more than one.
    """
    wanted = name.casefold()
    found = [
        kind for each, kind in promises().items() if wanted in (each.casefold(), each.casefold().removesuffix("dp"))
    ]
    if len(found) != 1:
        raise ValueError(f"{name!r} is none of the promises {', '.join(promises())}{nearest(name, promises())}")
    return found[0]


def missing(kind: type[Privacy], settings: Mapping[str, Any]) -> list[str]:
    """Return the names of settings that a promise needs and that are not given, or None.

    Args:
        kind: The class of the promise.
        settings: What is given, by name.
    """
    parameters = inspect.signature(kind).parameters.items()
    return [name for name, p in parameters if p.default is p.empty and settings.get(name) is None]


def made(kind: type[Privacy], settings: Mapping[str, Any]) -> Privacy:
    """Return a promise with settings.

    Args:
        kind: Its class.
        settings: By name; those that are None are left to the class.

    Raises:
        ValueError: If an argument is out of range, or none of its settings.
    """
    known = inspect.signature(kind).parameters
    given = {name: value for name, value in settings.items() if value is not None}
    for name in given:
        if name not in known:
            raise ValueError(f"{kind.__name__} has no setting {name!r}; it has {', '.join(known)}")
    try:
        return kind(**given)
    except TypeError as error:
        raise ValueError(str(error)) from error


@final
@dataclass(frozen=True)
class Question:
    """A promise in a setting.

    Args:
        promise: What is promised; its noise multiplier is not looked at.
        setting: What for; with a number of rounds.
        delta: δ.
    """

    promise: Privacy
    setting: Setting
    delta: float

    @property
    def kind(self) -> Kind:
        """The accountant: the promise's, or the tightest one.

        Raises:
            ValueError: If nothing can be promised in this setting.
        """
        return self.promise.accountant or tightest(self.mechanism(1.0))

    @property
    def neighbours(self) -> str:
        """For whom the guarantee holds, in words."""
        return neighbours(self.mechanism(1.0).relation, self.promise.unit)

    def mechanism(self, noise_multiplier: float) -> Mechanism:
        """Return what is charged."""
        return self.promise.mechanism(noise_multiplier, self.setting)

    def charges(self, rounds: int) -> int:
        """Return how many times the mechanism is released in a number of rounds."""
        return math.ceil(rounds / self.promise.period(self.setting)) * self.promise.releases(self.setting.local)

    def accountant(self, noise_multiplier: float, rounds: int) -> Accountant:
        """Return the accountant after a number of rounds."""
        accountant = Accountant(self.kind)
        accountant.charge(self.mechanism(noise_multiplier), self.charges(rounds))
        return accountant

    def epsilon(self, noise_multiplier: float, rounds: int) -> float:
        """Return ε after a number of rounds."""
        return self.accountant(noise_multiplier, rounds).epsilon(self.delta)

    def delta_for(self, epsilon: float, noise_multiplier: float, rounds: int) -> float:
        """Return the least δ with which an ε holds after a number of rounds."""
        return self.accountant(noise_multiplier, rounds).delta(epsilon)

    def noise(self, epsilon: float) -> float:
        """Return the least noise multiplier that keeps within ε, to four decimals and never too small."""
        assert self.setting.rounds is not None
        noise = noise_for(
            epsilon, self.delta, self.charges(self.setting.rounds), self.mechanism, self.kind, tolerance=2e-5
        )
        return rounded_up(noise)


def rounded_up(value: float) -> float:
    """Round up to four decimals. A guarantee or a noise multiplier that is rounded down does not hold."""
    return math.ceil(value * 1e4) / 1e4 if math.isfinite(value) else value
