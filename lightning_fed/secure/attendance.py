"""The progress of workers in a session, and the conditions for going on: the rules without the keys.

A simulation without keys uses these rules, and so does the server of the protocol: both abort the same rounds.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import final

from lightning_fed.secure.errors import AbortError
from lightning_fed.secure.graph import all_neighbours, order
from lightning_fed.secure.parameters import Parameters


@final
class Attendance:
    """The workers that have taken each step of a session.

    Args:
        parameters: The rules.
        session: The session's 32 bytes, which determine the neighbours.
        names: The workers that have advertised keys, in the order of the roster.

    Raises:
        AbortError: If there are too few or too many workers.
    """

    def __init__(self, parameters: Parameters, session: bytes, names: Sequence[str]) -> None:
        if not parameters.least <= len(names) <= parameters.most:
            raise AbortError(
                f"{len(names)} workers take part, and from {parameters.least} to {parameters.most} were agreed on"
            )
        self.names = tuple(names)
        self.degree = parameters.degree(len(names))
        self.neighbours = all_neighbours(order(self.names, session), self.degree.neighbours)
        """Each worker's neighbours, by its index."""
        self._parameters = parameters
        self.shared: frozenset[int] = frozenset()
        """The indices of those that have shared their secrets."""
        self.able: frozenset[int] = frozenset()
        """The indices of those of them that could go on, since enough of those who hold their shares have shared."""
        self.sent: frozenset[int] = frozenset()
        """The indices of the survivors: those that have sent their numbers in time."""

    def share(self, workers: Collection[int]) -> frozenset[int]:
        """Record who has shared, and return who of them can go on: enough of those who hold their shares have shared,
        too.

        Args:
            workers: Their indices.

        Raises:
            AbortError: If too few can.
        """
        self.shared = frozenset(workers)
        able = frozenset(v for v in self.shared if self._holders(v, self.shared) >= self.degree.threshold)
        self._refuse_few(able)
        self.able = able
        return able

    def send(self, workers: Collection[int]) -> frozenset[int]:
        """Record who has sent its numbers, and return who of them can answer at the end.

        Args:
            workers: Their indices.

        Raises:
            AbortError: If too few have.
        """
        self.sent = frozenset(workers)
        self._refuse_few(self.sent)
        return frozenset(v for v in self.sent if self._holders(v, self.sent & self.shared) >= self.degree.threshold)

    def reply(self, workers: Collection[int]) -> None:
        """Check that the masks of all workers that have shared can be removed.

        Args:
            workers: The indices of those that have answered at the end.

        Raises:
            AbortError: If too few shares of a secret have come back.
        """
        replied = frozenset(workers)
        for v in sorted(self.shared):
            found = len(replied.intersection((*self.neighbours[v], v)))
            if found < self.degree.threshold:
                raise AbortError(
                    f"{found} of those who hold the shares of {self.names[v]!r} have answered, "
                    f"{self.degree.threshold} needed"
                )

    def _holders(self, worker: int, there: Collection[int]) -> int:
        """Return the number of present holders of a worker's shares, including itself."""
        return sum(v in there for v in self.neighbours[worker]) + 1

    def _refuse_few(self, workers: Collection[int]) -> None:
        if len(workers) < self._parameters.least:
            raise AbortError(
                f"the sum would be of {len(workers)} workers, and at least {self._parameters.least} were agreed on"
            )
