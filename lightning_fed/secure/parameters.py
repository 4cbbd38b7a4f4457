"""The rules of a session, on which all parties agree before any key is sent."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import final

from lightning_fed.secure.graph import Degree, degree

_PACKED = struct.Struct("<dIIII")


@final
@dataclass(frozen=True)
class Parameters:
    """Parameters of a session.

    Args:
        threshold: The part τ of the holders of a secret's shares that must stay to the end, above ½.
        least: The smallest number of workers behind a sum.
        most: The largest number of workers, which the ring must support.
        bits: The bits of a word.
        neighbours: The degree of the graph; None: everyone up to 64 workers, see
        :func:`~lightning_fed.secure.graph.degree`.

    >>> Parameters(threshold=0.7, least=3, most=10).degree(5)
    Degree(neighbours=4, threshold=4)
    """

    threshold: float
    least: int
    most: int
    bits: int = 32
    neighbours: int | None = None

    def degree(self, workers: int) -> Degree:
        """Return the degree and the threshold of a cohort.

        Args:
            workers: The number of participants.
        """
        return degree(workers, self.threshold, self.neighbours)

    def to_bytes(self) -> bytes:
        """Return the parameters as bytes of a fixed length."""
        k = 0 if self.neighbours is None else self.neighbours
        return _PACKED.pack(self.threshold, self.least, self.most, self.bits, k)

    LENGTH = _PACKED.size
