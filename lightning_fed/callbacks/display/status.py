"""What a display shows, as plain data."""

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
        title: What is counted: ``"round"``, ``"testing"`` ...
        done: The number of the round at hand, or of what is over.
        total: How many there will be; None: unknown.
        fraction: The share of the whole that is over, from 0 to 1; None: unknown.
        cohort: The workers of the round: ``"6/10"`` ...
        within: What is done meanwhile: ``"evaluating 6/12"`` ...
        pace: Seconds for one.
        left: Seconds until the end.
        values: What is shown of the model, the most important first; ``{name: text}``.
        asides: What stands in brackets behind a value; ``{name: text}``.
        epsilon: What is spent of the privacy budget.
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
        round: How many rounds were over.
        values: Its metrics; ``{name: text}``.
    """

    round: int
    values: Mapping[str, str]


@final
@dataclass(frozen=True)
class Summary:
    """What is said when a run is over.

    Args:
        text: One line.
        evaluations: The last evaluations, as many as are kept.
    """

    text: str
    evaluations: Sequence[Evaluation] = ()
