"""A grow-only account of releases."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias, final

Charges: TypeAlias = list[dict[str, Any]]
"""Mechanisms as :meth:`Accountant.state_dict` stores them, each with its ``count``."""


def fresh_name() -> str:
    """Draw a unique name for a run or stretch; the name is independent of all seeds.

    >>> len(fresh_name())
    16
    """
    return secrets.token_hex(8)


@final
class Account:
    """All releases of a run, stretch by stretch.

    A *stretch* holds the releases of one fit. It has its own name, and only that fit adds to it, so of two records of a
    stretch the larger one is the later one. The union of two accounts takes the larger record of each stretch: records
    of the same run are not counted twice, those of different runs add up, and counts never decrease. (A grow-only
    counter: Shapiro et al., *Conflict-free Replicated Data Types*, 2011.)

    >>> account = Account()
    >>> account.charge("first", mechanism={"mechanism": "Gaussian", "parameters": {"noise_multiplier": 1.0}}, count=3)
    3
    >>> older = {"stretches": {"first": [{**account.total()[0], "count": 2}]}}
    >>> account.join(older)
    >>> account.total()[0]["count"]
    3
    """

    def __init__(self) -> None:
        self._counts: dict[str, dict[str, int]] = {}

    def __bool__(self) -> bool:
        return any(self._counts.values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Account) and self._charged() == other._charged()

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def stretches(self) -> tuple[str, ...]:
        """The names of all stretches, oldest first."""
        return tuple(self._counts)

    def charge(self, stretch: str, mechanism: Mapping[str, Any], count: int) -> int:
        """Record that a mechanism is about to be released.

        Args:
            stretch: The stretch's name.
            mechanism: The mechanism as it is stored.
            count: The number of releases.

        Returns:
            The total number of charges for this mechanism in the stretch.
        """
        return self.record(stretch, mechanism, self._counts.get(stretch, {}).get(_key(mechanism), 0) + count)

    def record(self, stretch: str, mechanism: Mapping[str, Any], count: int) -> int:
        """Merge another record of a stretch; the larger number is the later one.

        Args:
            stretch: The stretch's name.
            mechanism: The mechanism as it is stored.
            count: The total number of charges for the mechanism in that record.

        Returns:
            The total number of charges after the merge.
        """
        if not isinstance(count, int) or count < 0:
            raise ValueError(f"count={count!r} must be a number of releases")
        counts = self._counts.setdefault(stretch, {})
        key = _key(mechanism)
        counts[key] = max(counts.get(key, 0), count)
        return counts[key]

    def join(self, state: Mapping[str, Any]) -> None:
        """Take the union with an account of a checkpoint.

        Args:
            state: The result of :meth:`state_dict`, or the state of an older lightning_fed without stretches, which is
                counted as a separate run.

        Raises:
            ValueError: If the state is neither; the account is then unchanged.
        """
        joined = Account()
        joined._counts = {stretch: dict(counts) for stretch, counts in self._counts.items()}
        try:
            for stretch, charges in _stretches_of(state).items():
                for charge in charges:
                    joined.record(stretch, charge, charge["count"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is no account of privacy ({error!r}): {state!r}") from error
        self._counts = joined._counts

    def include(self, other: Account) -> None:
        """Take the union with another account.

        Args:
            other: The other one.
        """
        for stretch, counts in other._counts.items():
            own = self._counts.setdefault(stretch, {})
            own.update({key: max(own.get(key, 0), count) for key, count in counts.items()})

    def of(self, stretch: str) -> Charges:
        """Return the charges of one stretch.

        Args:
            stretch: The stretch's name; an unknown stretch has no charges.
        """
        return [{**json.loads(key), "count": count} for key, count in self._counts.get(stretch, {}).items() if count]

    def total(self) -> Charges:
        """Return the charges of all stretches, each mechanism once, in the order of their first charges."""
        total: dict[str, int] = {}
        for counts in self._counts.values():
            for key, count in counts.items():
                if count:
                    total[key] = total.get(key, 0) + count
        return [{**json.loads(key), "count": count} for key, count in total.items()]

    def meet(self, other: Account) -> Account:
        """Return the intersection with another account: the smaller record of each stretch.

        Args:
            other: The other one.
        """
        both = Account()
        for stretch, counts in self._counts.items():
            theirs = other._counts.get(stretch, {})
            both._counts[stretch] = {key: min(count, theirs.get(key, 0)) for key, count in counts.items()}
        return both

    def only(self, stretches: Collection[str]) -> Account:
        """Return the account of some stretches alone.

        Args:
            stretches: Their names.
        """
        some = Account()
        some._counts = {stretch: dict(counts) for stretch, counts in self._counts.items() if stretch in stretches}
        return some

    def _charged(self) -> set[tuple[str, str, int]]:
        return {(stretch, key, n) for stretch, counts in self._counts.items() for key, n in counts.items() if n}

    def state_dict(self) -> dict[str, Charges]:
        """Return the state that a checkpoint stores, by stretch."""
        return {stretch: charges for stretch in self._counts if (charges := self.of(stretch))}


def _key(mechanism: Mapping[str, Any]) -> str:
    return json.dumps({name: value for name, value in mechanism.items() if name != "count"}, sort_keys=True)


def _stretches_of(state: Mapping[str, Any]) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    stretches: Mapping[str, Sequence[Mapping[str, Any]]] | None = state.get("stretches")
    if stretches is not None:
        return stretches
    history = state["accountant"]["history"]
    digest = hashlib.blake2b(json.dumps(history, sort_keys=True).encode(), digest_size=8).hexdigest()
    return {f"older-{digest}": history} if history else {}
