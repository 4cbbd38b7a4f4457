"""Adds up the cost of a run's releases, by dp-accounting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from lightning_fed.core.arguments import number, one_of, whole
from lightning_fed.core.shown import Shown
from lightning_fed.privacy.accounting.composition import common_relation, delta_of, epsilon_of, suitable_grid
from lightning_fed.privacy.accounting.storage import UndefinedMechanismError, restored, stored
from lightning_fed.privacy.accounting.support import KINDS, Kind, refusal, relation_of
from lightning_fed.privacy.extra import import_extra
from lightning_fed.privacy.mechanisms import Mechanism, Relation


@final
class Accountant(Shown):
    """Counts releases, and says for which ε they are (ε, δ)-differentially private together.

    Its state is how often each mechanism was charged and nothing else, so a run that was interrupted ten times ends
    with the same ε, bit for bit, as one that was not.

    Which mechanisms it counts is up to dp-accounting; what that does not count is refused when it is charged. Asking is
    the expensive part, with ``pld`` much more than with ``rdp`` (the same question asked again is free). To stop in
    time ask :func:`~lightning_fed.privacy.rounds_for` once; for a curve of every round take a coarser ``grid``.

    Args:
        kind: ``pld``: privacy loss distributions, tight (Doroshenko et al. 2022), and never above what
            ``rdp`` says; ``rdp``: Rényi differential privacy (Mironov 2017), some 10 % higher, cheap, and the only one
            for cohorts of fixed size.

    Raises:
        ValueError: If there is no such kind.
        ImportError: If dp-accounting is not installed.

    >>> from lightning_fed.privacy import SubsampledGaussian
    >>> accountant = Accountant("rdp")
    >>> accountant.charge(SubsampledGaussian(noise_multiplier=1.0, sampling_rate=0.01), count=1000)
    >>> round(accountant.epsilon(delta=1e-5), 4)
    2.1014
    """

    def __init__(self, kind: Kind = "pld") -> None:
        one_of("kind", kind, KINDS, owner=self, says=' must be "pld" or "rdp"')
        import_extra("dp_accounting")  # at the start of a run rather than when ε is first asked for
        self.kind: Kind = kind
        self._counts: dict[Mechanism, int] = {}

    @property
    def history(self) -> tuple[tuple[Mechanism, int], ...]:
        """The mechanisms that were charged, each once, in the order of their first charge, with how often."""
        return tuple(self._counts.items())

    @property
    def relation(self) -> Relation:
        """For which neighbours the guarantee holds; see :mod:`lightning_fed.privacy.mechanisms`."""
        return common_relation(self._counts)

    def charge(self, mechanism: Mechanism, count: int = 1) -> None:
        """Record releases; to be called before they are made.

        Args:
            mechanism: What is released.
            count: How many times.

        Raises:
            ValueError: If the count is not a positive integer, or this accountant cannot count the mechanism beside
                what was charged before. Nothing is recorded then.
        """
        self._counts = self._counts_with(mechanism, count)

    def epsilon(self, delta: float, grid: float | None = None) -> float:
        """Return the ε of everything that was charged. Changes nothing.

        Args:
            delta: δ; above 0 and below 1, as a rule below 1/population.
            grid: For ``pld``: the step to which privacy losses are rounded, always so that ε comes out larger; None:
                1e-4, or what suits the history better.

        Returns:
            ε; 0 if nothing was charged, infinity if no ε holds.

        Raises:
            ValueError: If δ is out of range, or the grid is not positive.
        """
        return epsilon_of(self.kind, self.history, check_delta(delta), _checked(grid))

    def delta(self, epsilon: float, grid: float | None = None) -> float:
        """Return the least δ with which everything that was charged is (ε, δ)-differentially private. Changes nothing.

        Args:
            epsilon: ε, at least 0.
            grid: As for :meth:`epsilon`.

        Returns:
            δ; 0 if nothing was charged.

        Raises:
            ValueError: If ε is out of range, or the grid is not positive.

        >>> from lightning_fed.privacy import SubsampledGaussian
        >>> accountant = Accountant()
        >>> accountant.charge(SubsampledGaussian(noise_multiplier=1.0, sampling_rate=0.01), count=1000)
        >>> f"{accountant.delta(epsilon=1.8282):.2g}"
        '1e-05'
        """
        return delta_of(self.kind, self.history, number("epsilon", epsilon, least=0), _checked(grid))

    def rounding(self, delta: float) -> float:
        """Return by how much, about, :meth:`epsilon` is too large at most for being computed on a grid; 0 for ``rdp``.

        What a step twice as large adds: three times what this one does, where steps are small beside the spread of a
        loss, since the error falls with the square of the step; no less than this one does as a rule.

        Args:
            delta: δ.
        """
        if self.kind == "rdp" or not self._counts:
            return 0.0
        coarser = self.epsilon(delta, 2 * suitable_grid(self.history))
        return max(0.0, coarser - self.epsilon(delta))

    def after(self, mechanism: Mechanism, count: int = 1) -> Accountant:
        """Return the accountant that there would be after further releases. Changes nothing.

        Args:
            mechanism: What would be released.
            count: How many times.

        Raises:
            ValueError: As :meth:`charge` does.
        """
        further = Accountant(self.kind)
        further._counts = self._counts_with(mechanism, count)
        return further

    def epsilon_with(self, mechanism: Mechanism, delta: float, count: int = 1, grid: float | None = None) -> float:
        """Return the ε that there would be after further releases. Changes nothing.

        Args:
            mechanism: What would be released.
            delta: δ.
            count: How many times.
            grid: As for :meth:`epsilon`.

        Raises:
            ValueError: As :meth:`charge` and :meth:`epsilon` do.
        """
        return self.after(mechanism, count).epsilon(delta, grid)

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: strings and numbers, one entry for each mechanism."""
        return {"history": [{**stored(mechanism), "count": count} for mechanism, count in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint; what was charged before is forgotten. The kind of accountant may differ.

        Args:
            state: What :meth:`state_dict` gave.

        Raises:
            ValueError: If that is not what it is, or it counts releases of a class of mechanisms that this program does
                not define, since nothing is imported for it. Nothing is changed then.
        """
        loaded = Accountant(self.kind)
        try:
            for entry in state["history"]:
                loaded.charge(restored(entry), entry["count"])
        except UndefinedMechanismError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no state of a privacy accountant ({error}): {state!r}") from error
        self._counts = loaded._counts

    def _counts_with(self, mechanism: Mechanism, count: int) -> dict[Mechanism, int]:
        says = f" must be a positive integer: how many times {mechanism} is released"
        count = whole("count", count, least=1, says=says)
        if not isinstance(mechanism, Mechanism) or not _is_hashable(mechanism):
            raise ValueError(f"{mechanism!r} cannot be counted: a release is a Mechanism, and a frozen dataclass")
        relation_of(mechanism)  # raises if it says none
        counts = {**self._counts, mechanism: self._counts.get(mechanism, 0) + count}
        if mechanism not in self._counts:
            stored(mechanism)  # raises if a checkpoint could not keep it
            relation = common_relation(counts)
            for each in counts:
                if (reason := refusal(self.kind, each, relation)) is not None:
                    raise ValueError(reason)
        return counts


def _is_hashable(mechanism: Mechanism) -> bool:
    try:
        hash(mechanism)
    except TypeError:
        return False
    return True


def check_delta(delta: object) -> float:
    """Return δ, if it is one.

    Args:
        delta: What is given for it.

    Raises:
        TypeError: If it is no number.
        ValueError: If it is not above 0 and below 1.
    """
    says = " must be above 0 and below 1; take less than 1 / population"
    return number("delta", delta, above=0, below=1, says=says)


def _checked(grid: object) -> float | None:
    return None if grid is None else number("grid", grid, above=0, says=" must be positive, or None for one that suits")
