"""The secure aggregation that a node requires."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from lightning_fed.core.arguments import number, settle, whole
from lightning_fed.core.shown import Shown
from lightning_fed.secure.graph import degree
from lightning_fed.worker.sealing import Sealing


@final
@dataclass(frozen=True)
class RequiredSecureAggregation(Shown):
    """Secure aggregation that a run must have before a worker is trained: only sums of updates can be read.

    Args:
        threshold: The smallest fraction of the holders of a secret's shares that may suffice to open the secret.
        neighbours: The smallest number of other workers that share masks with a worker, in cohorts large enough.

    Raises:
        TypeError: If one of them is no number.
        ValueError: If one of them is out of range.
    """

    threshold: float = 0.6
    neighbours: int | None = None

    def __post_init__(self) -> None:
        settle(self, threshold=number("threshold", self.threshold, above=0.5, most=1))
        if self.neighbours is not None:
            settle(self, neighbours=whole("neighbours", self.neighbours, least=2))

    def __str__(self) -> str:
        at_least = "" if self.neighbours is None else f" and at least {self.neighbours} neighbours"
        return f"secure aggregation with a threshold of at least {self.threshold:g}{at_least}"

    def beyond(self, sealing: Sealing) -> tuple[str, object] | None:
        """Return the first setting of a run that is below its limit, and its value; None: none is.

        Args:
            sealing: The sealing of the run.
        """
        secure, cohort = sealing.settings, sealing.cohort
        if secure.threshold < self.threshold:
            return "threshold", secure.threshold
        found = degree(cohort, secure.threshold, secure.neighbours).neighbours
        if self.neighbours is not None and found < min(self.neighbours, cohort - 1):
            return "neighbours", found
        return None
