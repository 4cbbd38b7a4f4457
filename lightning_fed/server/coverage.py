"""The workers of a population that have taken part so far, as one bit each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

import numpy as np
import torch
from torch import Tensor


@final
class Coverage:
    """Growing set of positions in a population; a round that is run again does not change it.

    Args:
        seen: A value of :attr:`state`; None: no worker has taken part.
    """

    def __init__(self, seen: Tensor | None = None) -> None:
        self._seen = bytearray() if seen is None else bytearray(seen.numpy().tobytes())
        self._count = sum(byte.bit_count() for byte in self._seen)

    def add(self, positions: Iterable[int]) -> None:
        """Add workers that have taken part.

        Args:
            positions: Their positions, from 0.

        >>> coverage = Coverage()
        >>> coverage.add([0, 9, 9])
        >>> coverage.share(of=4), Coverage(coverage.state).share(of=4)
        (0.5, 0.5)
        """
        for position in positions:
            byte, bit = position >> 3, 1 << (position & 7)
            if byte >= len(self._seen):
                self._seen.extend(bytes(byte + 1 - len(self._seen)))
            if not self._seen[byte] & bit:
                self._seen[byte] |= bit
                self._count += 1

    def share(self, of: int) -> float:
        """Return the share of a population that has taken part.

        Args:
            of: The number of all workers.
        """
        return self._count / of

    @property
    def state(self) -> Tensor:
        """The bits for a checkpoint; uint8 ``[(last position that took part) // 8 + 1]``."""
        return torch.from_numpy(np.frombuffer(bytes(self._seen), np.uint8).copy())
