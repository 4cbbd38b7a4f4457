"""The participation of workers in rounds, with one bit for each worker and round."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray


@final
class Participation:
    """Rows of bits, one for each round of a run, for a population small enough for a figure.

    200 workers take 25 bytes a round.

    Args:
        names: All workers, in order.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._places = {name: place for place, name in enumerate(self.names)}
        self.first = 0
        """The number of the first recorded round."""
        self._bits = bytearray()

    def __len__(self) -> int:
        return len(self._bits) // self._width

    @property
    def _width(self) -> int:
        return -(-len(self.names) // 8)

    def note(self, round: int, workers: Collection[str]) -> None:
        """Record the participants of a round; earlier records of this and later rounds are dropped.

        Args:
            round: The round's number.
            workers: The names of the participants.

        >>> seen = Participation(["bob", "alice"])
        >>> seen.note(0, ["bob"])
        >>> seen.note(2, ["bob", "alice"])
        >>> seen.matrix.tolist()
        [[True, False], [False, False], [True, True]]
        """
        if not self._bits or round < self.first:
            self.first, self._bits = round, bytearray()
        del self._bits[(round - self.first) * self._width :]
        self._bits.extend(bytes((round - self.first) * self._width - len(self._bits)))
        row = bytearray(self._width)
        for worker in workers:
            place = self._places[worker]
            row[place >> 3] |= 1 << (place & 7)
        self._bits.extend(row)

    @property
    def matrix(self) -> NDArray[np.bool_]:
        """The participation; bool ``[rounds, workers]``."""
        rows = np.frombuffer(bytes(self._bits), np.uint8).reshape(-1, self._width)
        return np.unpackbits(rows, axis=1, count=len(self.names), bitorder="little").astype(np.bool_)

    def state_dict(self) -> dict[str, Any]:
        """Return the state that a checkpoint stores."""
        bits = torch.from_numpy(np.frombuffer(bytes(self._bits), np.uint8).copy())
        return {"first": self.first, "workers": len(self.names), "bits": bits}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a checkpoint of the same population; a checkpoint of another one is ignored.

        Args:
            state: The result of :meth:`state_dict`.
        """
        if state["workers"] == len(self.names):
            self.first, self._bits = int(state["first"]), bytearray(state["bits"].numpy().tobytes())
