"""The content of a display, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, final

NO_VALUES: Mapping[str, str] = {}


@final
@dataclass(frozen=True)
class Status:
    """The state of a run at one moment.

    Args:
        title: The counted unit: ``"round"``, ``"testing"`` ...
        done: The number of the current round, or of finished units.
        total: The total; None: unknown.
        fraction: The share of the whole that is over, from 0 to 1; None: unknown.
        cohort: The workers of the round: ``"6/10"`` ...
        within: The current activity within a round: ``"evaluating 6/12"`` ...
        pace: The seconds of one unit.
        left: The seconds until the end.
        values: The values of the model, the most important first; ``{name: text}``.
        asides: The text in brackets after a value; ``{name: text}``.
        epsilon: The spent privacy budget.
    """

    title: str
    done: int
    total: int | None = None
    fraction: float | None = None
    cohort: str = ""
    within: str = ""
    pace: float | None = None
    left: float | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    asides: Mapping[str, str] = field(default_factory=dict)
    epsilon: str = ""


class Evaluation(NamedTuple):
    """One evaluation within a fit.

    Args:
        round: The number of finished rounds.
        values: The metrics; ``{name: text}``.
    """

    round: int
    values: Mapping[str, str]


@final
@dataclass(frozen=True)
class Summary:
    """Summary of a finished run.

    Args:
        text: One line.
        evaluations: The stored last evaluations.
    """

    text: str
    evaluations: Sequence[Evaluation] = ()
