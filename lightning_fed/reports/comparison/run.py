"""The data of a run for a comparison: its settings, its seeds, its curve and its cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

from lightning_fed.core.configs import Scalar


@final
@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the global model.

    Args:
        rounds: The rounds that were over by then.
        value: The pooled value of the metric.
        worst: The worst decile over workers; None where there are no values of single workers.
        in_training: Whether it is no evaluation, but what the workers of a training round have logged.
    """

    rounds: int
    value: float
    worst: float | None = None
    in_training: bool = False


@final
@dataclass(frozen=True)
class Spending:
    """The spent privacy budget of a run.

    Args:
        epsilon: ε; it may be infinite.
        delta: δ.
        unit: What is hidden, such as ``worker``.
        charges: The mechanisms that were charged, each with its ``count``, as an accountant stores them.
        accountant: The accountant; None if it is not named.
        key: A name of the account: runs of one name were charged together already.
        insecure: Whether the noise came from a seed.
    """

    epsilon: float
    delta: float
    unit: str = "worker"
    charges: Sequence[Mapping[str, object]] = ()
    accountant: str | None = None
    key: str = ""
    insecure: bool = False


@final
@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        path: Its folder, as it is shown.
        settings: Everything by which it may differ from others except seeds, by name.
        seeds: Its seeds, by name.
        facts: Settings that must be equal in all runs of a comparison, by name: data, partition, evaluation.
        measured: What must be equal too, since it follows from such settings: numbers of examples and the like, by
            what it is. None where a run does not say.
        evaluations: Its evaluations, oldest first; at least one.
        bytes: Bytes that were sent and received in each round, by the rounds that were over after it.
        seconds: Seconds that its rounds and evaluations took.
        started: When it began, as ISO 8601 has it.
        spending: What it spent of its promise of privacy; None without one.
        code: What it ran on: the commit and the versions, by name.
    """

    path: str
    settings: Mapping[str, Scalar]
    seeds: Mapping[str, Scalar]
    evaluations: Sequence[Evaluation]
    facts: Mapping[str, Scalar] = field(default_factory=dict)
    measured: Mapping[str, Scalar] = field(default_factory=dict)
    bytes: Mapping[int, int] = field(default_factory=dict)
    seconds: float | None = None
    started: str = ""
    spending: Spending | None = None
    code: Mapping[str, str] = field(default_factory=dict)

    @property
    def seed(self) -> tuple[tuple[str, Scalar], ...]:
        """All seeds, as something that two runs have in common or not; empty if there are none, or one is missing."""
        return () if None in self.seeds.values() else tuple(sorted(self.seeds.items()))

    @property
    def values(self) -> list[float]:
        """The metric's values at all evaluations, oldest first."""
        return [evaluation.value for evaluation in self.evaluations]

    @property
    def rounds(self) -> int:
        """The number of rounds that were run."""
        return max([*self.bytes, self.evaluations[-1].rounds])

    def megabytes(self, rounds: int) -> float | None:
        """Return the megabytes of all rounds up to one of them; None where the bytes are not recorded.

        Args:
            rounds: The rounds that were over by then.
        """
        if not self.bytes:
            return None
        return sum(size for over, size in self.bytes.items() if over <= rounds) / 1e6
