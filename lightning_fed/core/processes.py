"""The processes that share a cohort: one, or all of a ``torch.distributed`` group."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, NoReturn, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_fed.core.watch import said

T = TypeVar("T")


@final
class ProcessError(RuntimeError):
    """Another process of the run has failed, so this one cannot go on."""


class _Failure(NamedTuple):
    """An error that a process sends in place of the expected message."""

    error: str


@final
class Processes:
    """Communication between a run's processes in a round. With one process every method is free.

    Args:
        rank: This process, from 0.
        size: The number of processes.
        node: The machine that this process runs on, from 0.
    """

    def __init__(self, rank: int = 0, size: int = 1, node: int = 0) -> None:
        self.rank = rank
        self.size = size
        self.node = node

    def share(self, names: Sequence[str], sizes: Mapping[str, float]) -> list[str]:
        """Return this process's part of a cohort: longest first, each to the least loaded process.

        Args:
            names: The cohort, in order; the same on every process.
            sizes: The cost of each worker, such as its number of examples.

        Returns:
            This process's workers, in the cohort's order.

        >>> [Processes(r, 2).share(["a", "b", "c"], {"a": 1, "b": 9, "c": 7}) for r in range(2)]
        [['b'], ['a', 'c']]
        """
        if self.size == 1:
            return list(names)
        load = [0.0] * self.size
        mine = set()
        for name in sorted(names, key=lambda n: -sizes[n]):
            rank = min(range(self.size), key=load.__getitem__)
            load[rank] += max(sizes[name], 1)
            if rank == self.rank:
                mine.add(name)
        return [name for name in names if name in mine]

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Sum each tensor over the processes, in place: one all-reduce per dtype, on one flat buffer."""
        self._all_reduce_(tensors, dist.ReduceOp.SUM)

    def max_(self, tensors: Sequence[Tensor]) -> None:
        """Take the maximum of each tensor over the processes, in place."""
        self._all_reduce_(tensors, dist.ReduceOp.MAX)

    def _all_reduce_(self, tensors: Sequence[Tensor], operation: dist.ReduceOp.RedOpType) -> None:
        if self.size == 1:
            return
        for dtype in dict.fromkeys(t.dtype for t in tensors):
            group = [t for t in tensors if t.dtype == dtype]
            flat = torch.cat([t.reshape(-1) for t in group])
            dist.all_reduce(flat, op=operation)
            for tensor, part in zip(group, torch.split(flat, [t.numel() for t in group]), strict=True):
                tensor.copy_(part.view_as(tensor))

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Copy the tensors of the first process to every process, in place."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes in every process, in order of rank.

        Args:
            rows: ``[k, ...]``, where k may differ from process to process, and nothing else.
        """
        if self.size == 1:
            return rows
        # As bytes, because gloo has no complex numbers and no truth values.
        bytes_ = rows.reshape(len(rows), math.prod(rows.shape[1:])).contiguous().view(torch.uint8)
        lengths = self.gather(len(rows))
        padded = bytes_.new_zeros(max(lengths), bytes_.shape[1])
        padded[: len(rows)] = bytes_
        everyones = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(everyones, padded)
        parts = [theirs[:length] for theirs, length in zip(everyones, lengths, strict=True)]
        return torch.cat(parts).view(rows.dtype).view(-1, *rows.shape[1:])

    def gather(self, thing: T) -> list[T]:
        """Return the objects of all processes on every process, in order of rank. ``thing`` is pickled: keep it small.

        Raises:
            ProcessError: If another process called :meth:`fail`.
        """
        if self.size == 1:
            return [thing]
        things: list[T | _Failure | None] = [None] * self.size
        dist.all_gather_object(things, thing)
        for rank, theirs in enumerate(things):
            if isinstance(theirs, _Failure):
                raise ProcessError(f"process {rank} of {self.size} failed: {theirs.error}")
        return things  # type: ignore[return-value]

    def fail(self, error: Exception) -> NoReturn:
        """Raise an error here, and make the next :meth:`gather` of the other processes raise instead of blocking.

        Args:
            error: The error; of a kind that ends the run, and not about a single worker.
        """
        if self.size > 1 and not isinstance(error, ProcessError):
            dist.all_gather_object([None] * self.size, _Failure(said(error)))
        raise error

    @contextmanager
    def together(self) -> Iterator[None]:
        """Return a context for work on all processes; if it fails on one of them, it fails on all.

        Raises:
            ProcessError: If another process failed.
        """
        try:
            yield
        except Exception as error:
            self.fail(error)
        self.gather(None)
