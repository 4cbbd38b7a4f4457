"""The workers' own batches in an evaluation, as a loader of a Trainer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, final

from lightning_fed.core.processes import Processes
from lightning_fed.core.watch import Watch
from lightning_fed.population import (
    EvaluationKind,
    WorkerPool,
    batch_in,
    end_pass,
    end_processes,
    set_epoch,
)
from lightning_fed.population.crowd import how_many
from lightning_fed.server.evaluation.batches import EvaluationBatches
from lightning_fed.server.evaluation.named_batches import EvaluationLoader
from lightning_fed.server.evaluation.offered import Offer
from lightning_fed.server.evaluation.seen_indices import SeenIndices
from lightning_fed.server.loaders import EvaluationBatch, what_failed

_END = object()


def _never(worker: str) -> bool:
    return False


@final
class WorkersLoader(EvaluationLoader):
    """Yields the workers' own evaluation batches, worker by worker; each process takes every n-th worker.

    Args:
        pool: The workers.
        names: Which of them, on all processes together.
        kind: Which of their loaders. A worker without one is passed over.
        rank: This process.
        processes: The number of processes.
        failed: Called with the name of a worker whose loader raises, what happened, and the error; raises, or notes it.
        is_out: Whether no more batches of a worker are wanted.
        offer: What the workers have.
        number: Which of a worker's loaders, if each has several.
    """

    def __init__(
        self,
        pool: WorkerPool,
        names: Sequence[str],
        kind: EvaluationKind,
        rank: int,
        processes: int,
        failed: Callable[[str, str, Exception], None],
        is_out: Callable[[str], bool] = _never,
        offer: Offer = Offer(),
        number: int = 0,
    ) -> None:
        self._pool = pool
        self._names = names[rank::processes]
        self._kind = kind
        self._failed = failed
        self._is_out = is_out
        self._offer = offer
        self._number = number
        self._watch = Watch()
        if kind == "predict":
            self.batch_sampler = SeenIndices()

    def __repr__(self) -> str:
        return f"WorkersLoader({self._kind} batches of {how_many(len(self._names))})"

    def __len__(self) -> int:
        if self._offer.lengths is None:
            raise TypeError("the loader of the workers' own batches has no length before they are gone through")
        return self._offer.lengths[self._number]

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the loader of all workers' batches has no {name!r}; the loaders of one worker are those of its own "
            "datamodule, such as data.workers[name].val_dataloader()"
        )

    def _over(self, name: str) -> AbstractContextManager[None]:
        trainer = self._pool.trainer
        return self._watch.over(name, 0 if trainer is None else trainer.global_step)

    def __iter__(self) -> Iterator[Any]:
        batches = self._batches(None)
        return batches if self._pool.trainer is None else (named.batch for named in batches)

    def named(self) -> Iterator[EvaluationBatch]:
        return self._batches(self.batch_sampler if self._kind == "predict" else None)

    def _batches(self, seen: SeenIndices | None) -> Iterator[EvaluationBatch]:
        if seen is not None:
            seen.begin()
        number = self._number if self._offer.loaders > 1 else None
        for name in self._names:
            if self._is_out(name):
                continue
            loader: Iterable[Any] = ()
            batches: Iterator[Any] = iter(())
            try:
                with self._over(name):
                    loader = self._loader_of(name)
                    taken = self._offer.numbers(loader, self._kind)
                    if seen is not None:
                        seen.watch(loader)
                    batches = iter(loader)
                for position in taken:
                    if self._is_out(name):
                        break
                    with self._over(name):
                        item = next(batches, _END)
                    if item is _END:
                        break
                    if seen is not None:
                        seen.note(loader, position)
                    yield EvaluationBatch(name, batch_in(loader, item), number)
            except Exception as error:
                end_pass(batches)
                self._failed(name, what_failed(f"its {self._kind}_dataloader", error), error)
            finally:
                end_processes(loader)

    def _loader_of(self, name: str) -> Iterable[Any]:
        loaders = self._pool[name].evaluation_loaders(self._kind)
        if not loaders:
            return ()
        self._offer.refuse_other_number(len(loaders))
        if self._pool.trainer is not None:
            progress: Any = self._pool.trainer.fit_loop.epoch_progress.current
            set_epoch(loaders[self._number], progress.processed)  # some want the order to follow the training
        return loaders[self._number]


def workers_loaders(
    pool: WorkerPool,
    names: Sequence[str],
    kind: EvaluationKind,
    processes: Processes,
    batches: EvaluationBatches,
    offer: Offer,
) -> WorkersLoader | list[WorkersLoader]:
    """Return the loader of an evaluation; or if each worker has several, or none, the list of them.

    Args:
        pool: The workers.
        names: Those that are evaluated, on all processes together.
        kind: Which of their loaders.
        processes: The processes.
        batches: Notes whose loaders raise.
        offer: What the workers have.
    """
    rank, size = processes.rank, processes.size
    loaders = [
        WorkersLoader(pool, names, kind, rank, size, batches.fail, batches.is_out, offer, number)
        for number in range(offer.loaders)
    ]
    return loaders[0] if len(loaders) == 1 else loaders
