"""One worker after another, on one copy of the user's module: the reference for every other engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

from lightning_fed._lightning import pl
from lightning_fed.core.rng import derive, seed_generators
from lightning_fed.engines.base import Engine
from lightning_fed.engines.blocks import block_length
from lightning_fed.population import WorkerPool
from lightning_fed.wire import Job, Updates, WorkerError, describe
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.result import LocalResult, stacked


@final
class Sequential(Engine):
    """Trains one worker after another. Runs every module and every loader.

    Args:
        compile: Whether to compile ``training_step`` by ``torch.compile``: seconds to minutes at the start,
            and again for batches of another size.
        channels_last: Whether images (batches of four dimensions) and convolutions lie in memory with their channels
            last, which makes convolutions faster on many devices.
    """

    def __init__(self, compile: bool = False, channels_last: bool = False) -> None:
        self._compile = compile
        self._channels_last = channels_last
        self._replica: LocalFit | None = None
        self._workers: WorkerPool | None = None

    def setup(self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer) -> None:
        self._replica = LocalFit(module, trainer, self._compile, self._channels_last)
        self._replica.check()
        self._workers = workers

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        assert self._replica is not None, "setup() comes before run()"
        assert self._workers is not None
        length = block_length(job)
        for start in range(0, len(cohort), length):
            block = cohort[start : start + length]
            delta = job.model.layout.rows(len(block), job.model.vector.device)
            by_name = job.model.layout.unflatten(delta)
            results: list[LocalResult] = []
            first = 0  # the first row that has not been passed on
            for name in block:
                row = first + len(results)
                try:
                    seed = derive(job.seed, job.cohort, name)
                    seed_generators(seed)
                    worker = self._workers[name]
                    worker.batches.reseed(seed, worker.batches.first_epoch(job.cohort, job.local))
                    results.append(self._replica.train(job, worker, {name: d[row] for name, d in by_name.items()}))
                except Exception as error:
                    yield from stacked(job.cohort, results, delta[first:row])
                    first, results = row, []
                    failure = WorkerError(name, job.round, describe(error))
                    failure.__cause__ = error
                    yield failure
            yield from stacked(job.cohort, results, delta[first : first + len(results)])
            del delta, by_name  # here and in loop.py: the next block can take its memory, still warm in the cache

    def teardown(self) -> None:
        self._replica = None
        self._workers = None
