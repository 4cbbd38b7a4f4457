"""The outbox: the one list of steps between local training and the wire.

Every engine passes its training through here before it yields, with one worker at a time or with many. What comes out
has left the workers: after that nothing is a worker's work. See ``docs/protocol.md``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import final

from torch import Tensor

from lightning_fed.algorithms import Algorithm, FedAvg, Result, Train
from lightning_fed.core.tree import finite_rows
from lightning_fed.privacy import Privacy
from lightning_fed.state import OwnState, OwnTables
from lightning_fed.transforms import Compressed, UpdateTransform
from lightning_fed.transforms.compression.broadcast import Broadcast
from lightning_fed.wire import Aggregate, Job, Updates, WorkerError, describe
from lightning_fed.worker.kept import Kept
from lightning_fed.worker.sealing import Sealing


@final
@dataclass(frozen=True)
class Outbox:
    """Steps on what workers trained, in this order: the finite check, the algorithm's, the transforms', the promise's.

    Compression, if it is among the transforms, comes after the promise: what was noised is compressed, and not the
    other way round.

    Args:
        algorithm: The round's algorithm; its half at the workers trains them, once or several times.
        transforms: Steps on updates before they leave.
        promise: The promise to the workers, applied last.
        own: The workers' own state.
        kept: The state of the workers' own optimizers and schedulers that is kept.
        sealing: How what leaves is sealed, at last, so that only sums can be seen; None: it is not.
        broadcast: How the model is compressed on its way to the workers, who decode it before all this; None: it is
            sent as it is.
    """

    algorithm: Algorithm = field(default_factory=FedAvg)
    transforms: Sequence[UpdateTransform] = ()
    promise: Privacy | None = None
    own: OwnState = field(default_factory=OwnState)
    kept: Kept = field(default_factory=Kept)
    sealing: Sealing | None = None
    broadcast: Broadcast | None = None

    @property
    def may_tell(self) -> bool:
        """Whether what single workers log, warn of or need may be shown.

        It may, if nothing is sealed, and nothing is promised or they are released.
        """
        return self.sealing is None and not self.hides_who

    @property
    def hides_who(self) -> bool:
        """Whether a promise hides even who took part, and what it says of itself."""
        return not (self.promise is None or self.promise.release_metrics)

    @property
    def compression(self) -> Compressed | None:
        """Compression of what leaves, which also decodes it at the server; None: no compression."""
        last = self.transforms[-1] if self.transforms else None
        return last if isinstance(last, Compressed) else None

    def __call__(self, train: Train, job: Job, workers: Sequence[str]) -> Iterator[Result]:
        """Train workers, and yield what leaves them.

        Args:
            train: The engine's local training.
            job: The server's job.
            workers: The names of the workers.

        Yields:
            Stacks of updates, and in place of a worker that failed its error.
        """

        def checked(job: Job, workers: Sequence[str]) -> Iterator[Result]:
            for result in train(job, workers):
                yield from _finite_only(result, job)
                del result  # here, below and in round.py: the next block can take its memory, still warm in the cache

        left = dict.fromkeys(workers)
        results = iter(self.algorithm.at_worker(checked, job, workers, self.own.scope()))
        while True:
            try:
                result = next(results, None)
            except Exception as error:  # of these workers, not of the run: other processes are not to wait
                yield from _failed(left, job, error)
                return
            if result is None:
                return
            for worker in result.workers if isinstance(result, Updates) else (result.worker,):
                left.pop(worker, None)
            if isinstance(result, Updates):
                try:
                    result = self._leaving(result, job)
                except Exception as error:
                    yield from _failed(result.workers, job, error)
                    continue
            yield result
            del result

    def _leaving(self, updates: Updates, job: Job) -> Updates:
        """Take the transforms' and the promise's steps, and that of compression."""
        steps = list(zip(self.transforms, self._scopes(), strict=True))
        for transform, tables in steps:
            if transform is not self.compression:
                updates = transform.worker(updates, job, tables)
        if self.promise is not None:
            updates = self.promise.at_worker(updates, job)
        updates = replace(updates, gradient=None)  # it was for the algorithm's half
        if self.compression is not None:
            updates = self.compression.worker(updates, job, steps[-1][1])
        return updates if self.sealing is None else self.sealing.sealed(updates, job)

    def at_server(self, aggregate: Aggregate, job: Job) -> Aggregate:
        """Return the aggregate after the mirror images of the transforms' and the promise's steps, in reverse order.

        Args:
            aggregate: The aggregate of what came out of the outbox, the same on every process.
            job: The workers' job.
        """
        if self.promise is not None:
            aggregate = self.promise.server(aggregate, job)
        for transform in reversed(self.transforms):
            aggregate = transform.server(aggregate)
        return aggregate

    def _scopes(self) -> list[OwnTables]:
        return [self.own.scope(prefix) for prefix in prefixes(self.transforms)]


def tables_of(algorithm: Algorithm, transforms: Sequence[UpdateTransform], kept: Kept = Kept()) -> tuple[str, ...]:
    """Return the names of all tables of the workers' own state.

    Args:
        algorithm: The algorithm.
        transforms: The transforms, in order.
        kept: The state of optimizers and schedulers that is kept.
    """
    each = zip(prefixes(transforms), transforms, strict=True)
    theirs = [prefix + name for prefix, transform in each for name in transform.tables]
    return (*algorithm.tables, *theirs, *kept.tables)


def prefixes(transforms: Sequence[UpdateTransform]) -> list[str]:
    """Return by what the names of each transform's tables begin, so that those of two differ.

    Args:
        transforms: The transforms, in order.
    """
    return [f"transforms.{position}." for position in range(len(transforms))]


def _failed(workers: Iterable[str], job: Job, error: Exception) -> Iterator[WorkerError]:
    for worker in workers:
        failure = WorkerError(worker, job.round, describe(error))
        failure.__cause__ = error
        yield failure


def _finite_only(result: Result, job: Job) -> Iterator[Result]:
    """Turn every update that has NaN or Inf in it into an error."""
    if not isinstance(result, Updates):
        yield result
        return
    finite = finite_of(result, job)
    if not finite.all():
        for worker, good in zip(result.workers, finite.tolist(), strict=True):
            if not good:
                yield WorkerError(worker, job.round, NOT_FINITE)
        result = result.rows(finite)
    if result.workers:
        yield result


def finite_of(updates: Updates, job: Job) -> Tensor:
    """Return for each worker whether its update is finite, bool ``[n]``; buffers that never were do not count.

    Args:
        updates: The updates of n workers.
        job: Theirs.
    """
    finite = finite_rows(updates.delta)
    for extra in updates.extra.values():
        finite &= finite_rows(extra)
    if updates.gradient is not None:
        finite &= finite_rows(updates.gradient)
    for name in (
        *job.model.finite_buffers,
        *(updates.buffers.keys() & job.model.frozen.keys() - job.model.buffers.keys()),
    ):
        finite &= finite_rows(updates.buffers[name])
    return finite


NOT_FINITE = (
    "its update has NaN or Inf in it, so its local training diverged; lower the learning rate, look at its data, or go "
    'on without it: FederatedModule(on_worker_error="drop")'
)
