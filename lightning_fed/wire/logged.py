"""Values that a worker logs: their display settings, and numbers that reduce with others of their name."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar, final

from lightning_fed.core.means import weighted_mean

REDUCTIONS: Final[Mapping[str, Callable[[Sequence[float], Sequence[float]], float]]] = {
    "mean": weighted_mean,
    "sum": lambda values, _: math.fsum(values) if all(map(math.isfinite, values)) else sum(values),
    "min": lambda values, _: min(values),
    "max": lambda values, _: max(values),
}
"""How values with weights become one, by the word that ``self.log(..., reduce_fx=...)`` takes."""


@final
class Shown(NamedTuple):
    """Display settings of a value: the arguments of ``self.log``, by default those of ``training_step``.

    Args:
        name: Its name.
        reduction: The reduction over steps, workers and rounds: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.
        on_step: Whether it is shown after each round.
        on_epoch: Whether it is shown at the end of the Trainer's epoch, reduced over the rounds.
        prog_bar: Whether it goes on the progress bar.
        logger: Whether loggers draw it.
        metric: The path in the module of the torchmetrics object that was logged; None: a plain value.
    """

    name: str
    reduction: str = "mean"
    on_step: bool = True
    on_epoch: bool = False
    prog_bar: bool = False
    logger: bool = True
    metric: str | None = None

    def merged(self, other: Shown) -> Shown:
        """Return the display settings of a value that was logged under one name with two settings.

        The value is shown where either setting shows it; loggers draw it only if both settings allow that. The first
        reduction counts; a warning names a second one that differs.
        """
        if self == other:
            return self
        if self.reduction != other.reduction:  # no error: one worker could end the run with it
            warnings.warn(
                f"self.log({self.name!r}, reduce_fx=...) is {self.reduction!r} at one worker and {other.reduction!r} "
                "at another, and the first of them counts for all; give the same at every worker, or two names",
                stacklevel=2,
            )
        return self._replace(
            on_step=self.on_step or other.on_step,
            on_epoch=self.on_epoch or other.on_epoch,
            prog_bar=self.prog_bar or other.prog_bar,
            logger=self.logger and other.logger,
        )

    @property
    def step_name(self) -> str:
        """The name after a round, as Lightning forks it."""
        return f"{self.name}_step" if self.on_epoch else self.name

    @property
    def epoch_name(self) -> str:
        """The name at the end of an epoch, as Lightning forks it."""
        return f"{self.name}_epoch" if self.on_step else self.name


@final
class Part(NamedTuple):
    """A part of the values logged under one name, to be reduced with other parts.

    Args:
        reduction: ``"mean"``, ``"sum"``, ``"min"`` or ``"max"``.
        value: Its own values, reduced.
        weight: The sum of their weights, which only a mean uses.
    """

    reduction: str
    value: float
    weight: float

    @staticmethod
    def of(reduction: str, values: Sequence[float], weights: Sequence[float]) -> Part:
        """Reduce some values.

        Args:
            reduction: How.
            values: At least one.
            weights: Their weights.
        """
        return Part(reduction, REDUCTIONS[reduction](values, weights), sum(weights))

    def merged(self, other: Part) -> Part:
        """Reduce two parts; the first one's reduction counts."""
        if self.reduction == "mean" and not (self.weight and other.weight):  # the mean of nothing is NaN
            return self if self.weight else other
        return Part.of(self.reduction, [self.value, other.value], [self.weight, other.weight])


@final
class Logged(NamedTuple):
    """Value that was logged under one name, with its display settings."""

    shown: Shown
    part: Part

    def merged(self, other: Logged) -> Logged:
        """Reduce two."""
        return Logged(self.shown.merged(other.shown), self.part.merged(other.part))


_Reducible = TypeVar("_Reducible", Part, Logged)


def merged(several: Iterable[Mapping[str, _Reducible]]) -> dict[str, _Reducible]:
    """Reduce the logged values of several sources, name by name.

    Args:
        several: The values of workers, processes or rounds, in order.

    >>> one, other = Logged(Shown("loss"), Part("mean", 1.0, 3)), Logged(Shown("loss"), Part("mean", 5.0, 1))
    >>> merged([{"loss": one}, {"loss": other}])["loss"].part.value
    2.0
    """
    table: dict[str, _Reducible] = {}
    for some in several:
        for name, part in some.items():
            table[name] = table[name].merged(part) if name in table else part
    return table
