"""The accountant, which composes a run's releases by dp-accounting."""

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
    """Counts releases, and computes the ε for which they are (ε, δ)-differentially private together.

    The state is the number of charges of each mechanism and nothing else. A run that was interrupted ten times
    therefore ends with the same ε, bit for bit, as an uninterrupted one.

    dp-accounting decides which mechanisms can be counted; others are refused when they are charged. Computing ε is the
    expensive part, and ``pld`` is much slower than ``rdp``; results are cached. To stop in time, call
    :func:`~lightning_fed.privacy.rounds_for` once; for a curve over all rounds, use a coarser ``grid``.

    Args:
        kind: ``pld``: privacy loss distributions, tight (Doroshenko et al. 2022), and never above ``rdp``;
            ``rdp``: Rényi differential privacy (Mironov 2017), some 10 % higher, cheap, and the only one for cohorts
            of fixed size.

    Raises:
        ValueError: If ``kind`` is unknown.
        ImportError: If dp-accounting is not installed.

    >>> from lightning_fed.privacy import SubsampledGaussian
    >>> accountant = Accountant("rdp")
    >>> accountant.charge(SubsampledGaussian(noise_multiplier=1.0, sampling_rate=0.01), count=1000)
    >>> round(accountant.epsilon(delta=1e-5), 4)
    2.1014
    """

    def __init__(self, kind: Kind = "pld") -> None:
        one_of("kind", kind, KINDS, owner=self, says=' must be "pld" or "rdp"')
        import_extra("dp_accounting")  # at the start of a run, not when ε is first computed
        self.kind: Kind = kind
        self._counts: dict[Mechanism, int] = {}

    @property
    def history(self) -> tuple[tuple[Mechanism, int], ...]:
        """The charged mechanisms, each once, in the order of their first charge, with the number of charges."""
        return tuple(self._counts.items())

    @property
    def relation(self) -> Relation:
        """The neighbouring relation of the guarantee; see ``privacy.mechanisms``."""
        return common_relation(self._counts)

    def charge(self, mechanism: Mechanism, count: int = 1) -> None:
        """Record releases; call it before they are made.

        Args:
            mechanism: The mechanism of the releases.
            count: The number of releases.

        Raises:
            ValueError: If the count is not a positive integer, or this accountant cannot count the mechanism beside
                the earlier charges; nothing is then recorded.
        """
        self._counts = self._counts_with(mechanism, count)

    def epsilon(self, delta: float, grid: float | None = None) -> float:
        """Return the ε of all charges, without changing them.

        Args:
            delta: δ; above 0 and below 1, as a rule below 1/population.
            grid: For ``pld``: the step to which privacy losses are rounded, always towards a larger ε; None: chosen
                for the history, about 1e-4.

        Returns:
            ε; 0 without charges, infinity if no ε holds.

        Raises:
            ValueError: If δ is out of range, or the grid is not positive.
        """
        return epsilon_of(self.kind, self.history, check_delta(delta), _checked(grid))

    def delta(self, epsilon: float, grid: float | None = None) -> float:
        """Return the smallest δ for which all charges are (ε, δ)-differentially private, without changing them.

        Args:
            epsilon: ε, at least 0.
            grid: As for :meth:`epsilon`.

        Returns:
            δ; 0 without charges.

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
        """Return an approximate bound on the rounding error of :meth:`epsilon` on its grid; 0 for ``rdp``.

        The bound is the increase of ε for a step twice as large. For steps that are small beside the spread of a loss,
        the error grows with the square of the step, so this increase is three times the error.

        Args:
            delta: δ.
        """
        if self.kind == "rdp" or not self._counts:
            return 0.0
        coarser = self.epsilon(delta, 2 * suitable_grid(self.history))
        return max(0.0, coarser - self.epsilon(delta))

    def after(self, mechanism: Mechanism, count: int = 1) -> Accountant:
        """Return a copy of the accountant with further releases; this one is unchanged.

        Args:
            mechanism: The mechanism of the further releases.
            count: The number of further releases.

        Raises:
            ValueError: As :meth:`charge` does.
        """
        further = Accountant(self.kind)
        further._counts = self._counts_with(mechanism, count)
        return further

    def epsilon_with(self, mechanism: Mechanism, delta: float, count: int = 1, grid: float | None = None) -> float:
        """Return the ε after further releases, without charging them.

        Args:
            mechanism: The mechanism of the further releases.
            delta: δ.
            count: The number of further releases.
            grid: As for :meth:`epsilon`.

        Raises:
            ValueError: As :meth:`charge` and :meth:`epsilon` do.
        """
        return self.after(mechanism, count).epsilon(delta, grid)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores: strings and numbers, one entry for each mechanism."""
        return {"history": [{**stored(mechanism), "count": count} for mechanism, count in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the charges of a checkpoint, and drop the current ones. The kind of accountant may differ.

        Args:
            state: The result of :meth:`state_dict`.

        Raises:
            ValueError: If the state is invalid, or has a class of mechanisms that this program has not imported; the
                accountant is then unchanged.
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
        relation_of(mechanism)  # raises if the mechanism declares no relation
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
    """Check δ, and return it.

    Args:
        delta: δ.

    Raises:
        TypeError: If δ is not a number.
        ValueError: If δ is not above 0 and below 1.
    """
    says = " must be above 0 and below 1; take less than 1 / population"
    return number("delta", delta, above=0, below=1, says=says)


def _checked(grid: object) -> float | None:
    return None if grid is None else number("grid", grid, above=0, says=" must be positive, or None for one that suits")
