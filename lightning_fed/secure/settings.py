"""The user's settings of secure aggregation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

from lightning_fed.core.arguments import flag, number, settle, whole
from lightning_fed.core.shown import Shown
from lightning_fed.core.words import BITS
from lightning_fed.secure.draws import bounds
from lightning_fed.secure.parameters import Parameters
from lightning_fed.secure.ring import Ring
from lightning_fed.secure.scalars import most

DELTA = "delta"

STEPS = ("share", "mask", "confirm", "unmask")
"""The steps after the advertisement of keys, by the name of the method that answers."""


@final
@dataclass(frozen=True)
class SecureAggregation(Shown):
    """Secure aggregation: the server learns sums over a cohort, and no worker's update.

    Workers scale their updates to a norm of at most ``clip``, write them as fixed-point numbers modulo ``2**bits``, and
    add masks that cancel in the sum (Bonawitz et al. 2017; in large cohorts on a graph of neighbours, Bell et al.
    2020). Losses, metrics and numbers of examples go the same way, so that reports and curves are about the cohort.

    It hides updates from the server, but gives no guarantee about the content of sums: add a promise of privacy for it.

    Args:
        clip: The largest L2 norm of a worker's update, or of each vector by its name if an algorithm sends several
            (``{"delta": 10.0, "control": 100.0}``). None: the bound of the promise.
        threshold: The part of the holders of a worker's shares that must stay to the end of a round: 0.7 allows 30 % to
            drop out. It must be above ½; otherwise a server that sends different lists could see one update.
        least: The smallest number of workers behind a sum; None: the threshold's part of a cohort, at least 2.
        neighbours: The number of workers with which each worker shares a mask; None: all in cohorts of up to 64, and in
            larger ones as many as are safe if a tenth of them colludes and a tenth drops out.
        bits: The bits of a sent number, a multiple of 4 up to 32. With 32 the rounding is negligible for training; with
            fewer the rounding error grows, and fewer bytes are sent.
        weight_cap: The number of examples at which a worker reaches full weight; required if workers are weighted by
            their numbers of examples, since the largest of these numbers is secret.
        buffer_clip: The largest L2 norm of the change of a worker's float buffers, such as BatchNorm's statistics, if
            averaged; None: a module with such buffers is refused.
        metric_range: The largest absolute value of a loss or a metric, times its weight; a larger one is excluded, and
            counted.
        protocol: Whether a simulation exchanges keys and masks, too. False: the sums equal the protocol's, bit for bit,
            but no keys are exchanged, and this process sees every update, as in any simulation. Between machines keys
            and masks are always exchanged.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range.

    >>> SecureAggregation(clip=10.0).parameters(cohort=10).degree(10)
    Degree(neighbours=9, threshold=7)
    """

    clip: float | Mapping[str, float] | None = None
    threshold: float = 0.7
    least: int | None = None
    neighbours: int | None = None
    bits: int = 32
    weight_cap: int | None = None
    buffer_clip: float | None = None
    metric_range: float = 1e6
    protocol: bool = False

    def __post_init__(self) -> None:
        says = (
            " must be above 0.5 and at most 1: else a server that calls a worker alive here and lost there could "
            "collect both of its secrets, and see its update"
        )
        settle(
            self,
            clip=self._clip(),
            threshold=number("threshold", self.threshold, above=0.5, most=1, owner=self, says=says),
            bits=whole("bits", self.bits, least=BITS[0], most=BITS[-1], owner=self),
            metric_range=number("metric_range", self.metric_range, above=0, owner=self),
            protocol=flag("protocol", self.protocol, owner=self),
        )
        if self.bits not in BITS:
            raise ValueError(
                f"SecureAggregation(bits={self.bits}) must be a multiple of 4, so that two fill whole bytes"
            )
        if self.least is not None:
            says = " must be at least 2: a sum of one worker is its update"
            settle(self, least=whole("least", self.least, least=2, owner=self, says=says))
        if self.neighbours is not None:
            says = " must be at least 2 and even: as many lie on either side of a worker"
            k = whole("neighbours", self.neighbours, least=2, owner=self, says=says)
            if k % 2:
                raise ValueError(f"SecureAggregation(neighbours={k}){says}")
            settle(self, neighbours=k)
        if self.weight_cap is not None:
            settle(self, weight_cap=whole("weight_cap", self.weight_cap, least=1, owner=self))
        if self.buffer_clip is not None:
            settle(self, buffer_clip=number("buffer_clip", self.buffer_clip, above=0, owner=self))

    def _clip(self) -> float | dict[str, float] | None:
        if self.clip is None:
            return None
        if isinstance(self.clip, Mapping):
            return {
                str(name): number(f"clip[{name!r}]", bound, above=0, owner=self) for name, bound in self.clip.items()
            }
        return number("clip", self.clip, above=0, owner=self)

    def clip_of(self, vector: str) -> float:
        """Return the bound of a vector.

        Args:
            vector: ``"delta"``, or the name of an algorithm's extra vector.

        Raises:
            ValueError: If no bound is set for it.
        """
        if isinstance(self.clip, Mapping):
            if vector in self.clip:
                return self.clip[vector]
        elif self.clip is not None and vector == DELTA:
            return self.clip
        given = f"clip={self.clip!r}" if self.clip is not None else "no clip"
        raise ValueError(
            f"SecureAggregation has {given}, and {vector!r} is sent, too: give a bound for each, such as "
            f"clip={{'{DELTA}': 10.0, {vector!r}: 100.0}}"
            if vector != DELTA
            else "SecureAggregation needs clip=, the largest norm of an update, such as clip=10.0"
        )

    def by_coins(self, population: int, cohort_size: int, hides_who: bool) -> tuple[SecureAggregation, int]:
        """Return settings for rounds of Poisson sampling, and the largest number of workers in a round.

        A round with more workers is aborted, since its sum might not fit, with a probability of 1e-12. A round with
        fewer workers than the least has the same probability, unless the user, hiding no participation, sets a larger
        least. The default of the least is the threshold's part of the smallest cohort.

        Args:
            population: The number of all workers.
            cohort_size: The expected number of workers in a round.
            hides_who: Whether participation must stay secret, also in aborted rounds.

        Raises:
            ValueError: If rounds would be aborted too often for that.

        >>> settings, most = SecureAggregation(clip=1.0).by_coins(population=1000, cohort_size=100, hides_who=False)
        >>> settings.least, most
        (28, 173)
        """
        drawn = bounds(population, cohort_size)
        least = self._least(drawn.least)
        if hides_who and least > drawn.least:
            fix = "a larger cohort_size, or sampler=Uniform()"
            raise ValueError(
                f"SecureAggregation(least={least}): coins may draw fewer of {population} workers (with cohort_size="
                f"{cohort_size} as few as {drawn.least}), and a round that is given up would tell who was not drawn; "
                "give " + (fix if self.least is None or drawn.least < 2 else f"least={drawn.least}, {fix}")
            )
        return replace(self, least=least), drawn.most

    def _least(self, cohort: int) -> int:
        return max(2, math.ceil(self.threshold * cohort - 1e-9)) if self.least is None else self.least

    def parameters(self, cohort: int) -> Parameters:
        """Return the rules of each round.

        Args:
            cohort: The largest number of workers in a round.

        Raises:
            ValueError: If so few workers cannot hide their updates from each other.
        """
        least = self._least(cohort)
        if cohort < max(least, 2):
            raise ValueError(
                f"SecureAggregation(least={least}): a cohort of {cohort} is too small, since the sum of one worker is "
                "its update; give FederatedDataModule a larger cohort_size"
            )
        Ring(1.0, cohort, self.bits)  # raises if the ring is impossible
        if self.metric_range > most(cohort):
            raise ValueError(
                f"SecureAggregation(metric_range={self.metric_range:g}): the metrics of {cohort} workers have no room "
                f"in a sum, which would wrap around; take {most(cohort):.3g} at most"
            )
        return Parameters(self.threshold, least, cohort, self.bits, self.neighbours)
