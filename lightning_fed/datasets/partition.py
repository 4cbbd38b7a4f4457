"""Partitions, which assign each example to a worker, and the partitioners that make them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from lightning_fed.core.shown import Shown

PREFIX = "worker_"


@final
@dataclass(frozen=True, eq=False, repr=False)
class Partition:
    """Every example in exactly one worker, as two arrays (the layout of a sparse CSR matrix).

    Worker ``i`` holds the examples ``indices[offsets[i] : offsets[i + 1]]``. A million workers cost two arrays and no
    list: names that are not given are computed (``worker_00`` and on, padded to the width of the last).

    Args:
        indices: The examples, worker by worker: int64 ``[n]``, a permutation of ``0 .. n - 1``. Read-only, and copied
            if the given array is writable; a read-only array avoids two copies of a large one.
        offsets: The start of each worker, and finally ``n``: int64 ``[workers + 1]``. Read-only, copied likewise.
        names: One name per worker, or ``None`` for computed ones.

    Raises:
        ValueError: If an example is missing or held twice, a worker holds none, or the names are not unique.

    Example::

        >>> import numpy as np
        >>> partition = Partition(indices=np.array([2, 0, 1]), offsets=np.array([0, 1, 3]))
        >>> partition
        Partition(workers=2, examples=3)
        >>> partition[1].tolist(), partition.name(1), partition.position("worker_1")
        ([0, 1], 'worker_1', 1)
    """

    indices: NDArray[np.int64]
    offsets: NDArray[np.int64]
    names: Sequence[str] | None = None
    _positions: dict[str, int] = field(init=False)

    def __post_init__(self) -> None:
        indices, offsets = _frozen(self.indices, "indices"), _frozen(self.offsets, "offsets")
        if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != len(indices):
            raise ValueError(
                f"offsets must run from 0 to len(indices)={len(indices)}, with one entry per worker and one"
            )
        if (offsets[1:] <= offsets[:-1]).any():
            empty = int(np.argmax(offsets[1:] <= offsets[:-1]))
            raise ValueError(f"offsets: the worker at position {empty} holds no example; leave it out or give it one")
        held = np.zeros(len(indices), dtype=np.bool_)
        known = (indices >= 0) & (indices < len(indices))
        held[indices if known.all() else indices[known]] = True
        if not held.all():
            raise ValueError(
                f"indices must hold each of 0 .. {len(indices) - 1} exactly once; {int(np.argmin(held))} is missing"
            )
        names = None if self.names is None else tuple(self.names)
        positions = {name: position for position, name in enumerate(names or ())}
        if names is not None and len(names) != len(offsets) - 1:
            raise ValueError(f"names: {len(names)} for {len(offsets) - 1} workers; give one name per worker")
        if len(positions) != len(names or ()):
            raise ValueError("names must be unique: two workers bear the same one")
        for key, value in (("indices", indices), ("offsets", offsets), ("names", names), ("_positions", positions)):
            object.__setattr__(self, key, value)

    def __len__(self) -> int:
        """Count the workers."""
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> NDArray[np.int64]:
        """Return the examples of one worker: int64 ``[size]``, a view.

        Raises:
            IndexError: If ``position`` is not from 0 to ``len(self) - 1``.
        """
        self._check(position)
        return self.indices[self.offsets[position] : self.offsets[position + 1]]

    def __iter__(self) -> Iterator[NDArray[np.int64]]:
        """Go through the examples of each worker."""
        return map(self.__getitem__, range(len(self)))

    def __repr__(self) -> str:
        """Show the two sizes."""
        return f"Partition(workers={len(self)}, examples={len(self.indices)})"

    def sizes(self) -> NDArray[np.int64]:
        """Count the examples of each worker: int64 ``[workers]``."""
        return np.diff(self.offsets)

    def name(self, position: int) -> str:
        """Return the name of the worker at a position.

        Raises:
            IndexError: If ``position`` is not from 0 to ``len(self) - 1``.
        """
        self._check(position)
        return self._computed(position) if self.names is None else self.names[position]

    def position(self, name: str) -> int:
        """Return the position of the worker of that name, in constant time.

        Raises:
            KeyError: If there is no such worker; the message names an existing one.
        """
        if self.names is not None:
            position = self._positions.get(name, -1)
        else:
            digits = name.removeprefix(PREFIX)
            position = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else -1
            if not 0 <= position < len(self) or name != self._computed(position):
                position = -1
        if position < 0:
            raise KeyError(f"no worker is named {name!r}; of the {len(self)} workers the first is {self.name(0)!r}")
        return position

    def iter_names(self) -> Iterator[str]:
        """Go through the names in the order of the positions, without making a list of them."""
        return map(self._computed, range(len(self))) if self.names is None else iter(self.names)

    def _computed(self, position: int) -> str:
        return f"{PREFIX}{position:0{len(str(len(self) - 1))}d}"

    def _check(self, position: int) -> None:
        if not 0 <= position < len(self):
            raise IndexError(f"position {position}: the {len(self)} workers are at 0 to {len(self) - 1}")


class Partitioner(Shown, ABC):
    """A rule that deals examples out to workers; the same seed and labels give the same partition."""

    seed: int | None = None
    """The seed; None: nothing is drawn at random."""

    @property
    def needs_labels(self) -> bool:
        """Whether the partition depends on the values of the labels, not only on their number."""
        return True

    @property
    def column(self) -> str | None:
        """The column of the source whose values are passed as labels; None: the labels themselves."""
        return None

    @abstractmethod
    def __call__(self, labels: NDArray[Any]) -> Partition:
        """Deal out the examples.

        Args:
            labels: The label of every example, ``[n]`` or ``[n, 1]``.

        Returns:
            A partition of the examples ``0 .. n - 1``.

        Raises:
            ValueError: If the examples cannot be dealt out by this rule.
        """


def _frozen(values: NDArray[np.int64], argument: str) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"{argument} must be a one-dimensional array of integers, not {array.dtype} {array.shape}")
    array = array.astype(np.int64, copy=array.flags.writeable)
    array.setflags(write=False)
    return array
