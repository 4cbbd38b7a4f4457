"""The rows of many small workers in one tensor, so that the batches of a chunk are one gather.

For small models taking a chunk's batches worker by worker costs as much as the training. On an accelerator the rows
also stay on the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from lightning_fed.population.batches import IndexedBatches

_BUDGET_BYTES = 2**28
_LARGEST_ON_CPU = 2**16  # bytes of a worker, above which the copying itself is what takes the time


# Faster than taking a chunk's batches worker by worker.
@final
class ExampleCache:
    """Keeps copies of workers' tensors, up to a budget; beyond the budget, all copies are dropped.

    A worker whose tensors have been written to has other :class:`IndexedBatches`, and so another place.

    Args:
        device: Where the copies lie.
        budget: Bytes.
        most: The number of workers beyond which all copies are dropped: the cache also keeps their originals alive.
    """

    def __init__(self, device: torch.device, budget: int = _BUDGET_BYTES, most: int = 2000) -> None:
        self._device = device
        self._budget = budget
        self._most = most
        self.tensors: list[Tensor] = []
        """All rows of all workers; ``[rows, ...]`` each, of which the last ones may be free."""
        self._used = 0
        self._places: dict[IndexedBatches, int] = {}

    def offsets(self, workers: Sequence[IndexedBatches]) -> list[int] | None:
        """Return the first row of each worker, after making a place for those that have none.

        Args:
            workers: The batches of some workers.

        Returns:
            One number per worker, or None if their rows cannot lie in one tensor or are better taken where they are.
        """
        places = [self._places.get(worker) for worker in workers]
        known = [place for place in places if place is not None]
        if len(known) == len(places):
            return known
        missing = [worker for worker in workers if worker not in self._places]
        if self._places and len(self._places) + len(missing) > max(self._most, len(workers)):
            self._forget()
            missing = list(workers)
        if not self._take_in(missing):
            if not self._places or not self._fit(workers):
                return None
            self._forget()
            return self.offsets(workers)
        return [self._places[worker] for worker in workers]

    def _forget(self) -> None:
        self._places.clear()
        self._used = 0

    def _fit(self, workers: Sequence[IndexedBatches]) -> bool:
        """Whether workers may be kept, and would fit if the store were empty."""
        first = [(t.dtype, t.shape[1:]) for t in workers[0].tensors]
        size = 0
        for worker in workers:
            if [(t.dtype, t.shape[1:]) for t in worker.tensors] != first:
                return False
            own = sum(t.nbytes for t in worker.tensors)
            if self._device.type == "cpu" and own > _LARGEST_ON_CPU:
                return False
            size += own
        same = [(t.dtype, t.shape[1:]) for t in self.tensors] in ([], first)
        return same and size <= self._budget

    def _take_in(self, workers: Sequence[IndexedBatches]) -> bool:
        if not self._fit(workers):
            return False
        rows = self._used + sum(len(worker.tensors[0]) for worker in workers)
        row_bytes = sum(t[:1].nbytes for t in workers[0].tensors)
        if rows * row_bytes > self._budget:
            return False
        if not self.tensors or rows > len(self.tensors[0]):
            self._grow(max(2 * rows, 1024), workers[0])
        for worker in workers:
            self._places[worker] = self._used
            stop = self._used + len(worker.tensors[0])
            for kept, own in zip(self.tensors, worker.tensors, strict=True):
                kept[self._used : stop] = own
            self._used = stop
        return True

    def _grow(self, rows: int, like: IndexedBatches) -> None:
        grown = [torch.empty(rows, *t.shape[1:], dtype=t.dtype, device=self._device) for t in like.tensors]
        for new, old in zip(grown, self.tensors, strict=False):
            new[: self._used] = old[: self._used]
        self.tensors = grown
