"""The promise that a node requires, and the numbers of a promise that have limits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from lightning_fed.core.arguments import flag, nearest, number, settle, text, whole
from lightning_fed.core.shown import Shown
from lightning_fed.privacy import AUDIENCES, Privacy
from lightning_fed.privacy.question import promises

_AT_MOST, _AT_LEAST = "at most", "at least"
_LIMITS = {"clip": _AT_MOST, "noise_multiplier": _AT_LEAST, "sampling_rate": _AT_MOST, "survivors": _AT_MOST}


@final
@dataclass(frozen=True, repr=False)
class RequiredPromise(Shown):
    """The promise that a run must make before a worker is trained.

    Args:
        promise: The name of its class, one that protects from the server: ``"LocalDP"``, ``"RecordDP"``, or, where
            sums are aggregated securely, ``"DistributedDP"``.
        clip: The largest clipping bound.
        noise_multiplier: The smallest noise multiplier.
        sampling_rate: The largest sampling rate, of a promise that has one.
        survivors: The largest number of workers that share the noise, of a promise that has that number.
        release_metrics: Whether losses, metrics and counts may leave without noise.

    Raises:
        TypeError: If one of them is of a wrong type.
        ValueError: If there is no such promise, it does not hold against the server, or a number is out of range, is
            missing, or is one that the promise does not have.
    """

    promise: str
    clip: float
    noise_multiplier: float
    sampling_rate: float | None = None
    survivors: int | None = None
    release_metrics: bool = False

    def __post_init__(self) -> None:
        known = promises()
        kind = known.get(text("class", self.promise))
        if kind is None:
            holding = [name for name, each in known.items() if each.audience != AUDIENCES[0]]
            raise ValueError(
                f"class={self.promise!r} must be one of the promises {', '.join(holding)}{nearest(self.promise, known)}"
            )
        if kind.audience == AUDIENCES[0]:
            raise ValueError(
                f"class={self.promise!r} is kept by the server alone, so that a node cannot insist on it; take "
                "LocalDP, which hides what a worker sends, or RecordDP, which hides single examples"
            )
        settle(
            self,
            clip=number("clip", self.clip, above=0),
            noise_multiplier=number("noise_multiplier", self.noise_multiplier, above=0),
            release_metrics=flag("release_metrics", self.release_metrics),
        )
        if self.sampling_rate is not None:
            settle(self, sampling_rate=number("sampling_rate", self.sampling_rate, above=0, most=1))
        if self.survivors is not None:
            settle(self, survivors=whole("survivors", self.survivors, least=1))
        parameters = inspect.signature(kind).parameters
        for name, which in _LIMITS.items():
            given = getattr(self, name) is not None
            if given and name not in parameters:
                raise ValueError(f"{name}: {self.promise} has no such number; leave it out")
            if not given and name in parameters:
                raise ValueError(f"{name} is missing: say which {name} a {self.promise} must have {which}")

    def __str__(self) -> str:
        numbers = [f"{name} {which} {getattr(self, name)}" for name, which in _LIMITS.items() if self._has(name)]
        shown = ", metrics shown" if self.release_metrics else ""
        return f"{self.promise} with {', '.join(numbers)}{shown}"

    @property
    def unit(self) -> Literal["worker", "example"]:
        """The unit that the promise hides."""
        return promises()[self.promise].unit

    def _has(self, name: str) -> bool:
        return getattr(self, name) is not None

    def beyond(self, numbers: Mapping[str, float | None]) -> str | None:
        """Return the name of the first number that is beyond its limit; None: none is.

        Args:
            numbers: By the names of the limits. One that is None is not decided yet.
        """
        for name, which in _LIMITS.items():
            limit, value = getattr(self, name), numbers.get(name)
            if limit is None or value is None:
                continue
            if not (0 < value <= limit if which == _AT_MOST else limit <= value < math.inf):
                return name
        return None


def numbers_of(promise: Privacy) -> dict[str, float | None]:
    """Return the numbers of a promise that have limits, by name; None: not decided before the first round."""
    parameters = inspect.signature(type(promise)).parameters
    numbers = {name: getattr(promise, name) for name in _LIMITS if name in parameters}
    return {**numbers, "clip": promise.bound()}
