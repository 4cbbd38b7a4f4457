"""One worker after another, on one copy of the user's module: the reference for every other engine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import flag
from lightning_fed.core.lost_device import refuse_lost
from lightning_fed.engines.base import Engine
from lightning_fed.engines.blocks import block_length
from lightning_fed.engines.remarks import Remarks
from lightning_fed.population import WorkerPool
from lightning_fed.wire import Job, Updates, WorkerError, describe
from lightning_fed.worker.local_fit import LocalFit
from lightning_fed.worker.outbox import Outbox
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
        self._compile = flag("compile", compile)
        self._channels_last = flag("channels_last", channels_last)
        self._local_fit: LocalFit | None = None
        self._workers: WorkerPool | None = None
        self._outbox = Outbox()
        self._remarks = Remarks()

    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        own = outbox.own.scope()
        quiet = outbox.sealing is not None
        self._local_fit = LocalFit(module, trainer, self._compile, self._channels_last, outbox.kept, own, quiet)
        self._local_fit.check()
        self._workers = workers
        self._outbox = outbox
        self._remarks.silent = not outbox.may_tell

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        length = block_length(job)
        for start in range(0, len(cohort), length):
            yield from self._outbox(self._train, job, cohort[start : start + length])

    def _train(self, job: Job, workers: Sequence[str]) -> Iterator[Updates | WorkerError]:
        """Train the workers of a block."""
        assert self._local_fit is not None, "setup() comes before run()"
        assert self._workers is not None
        delta = job.model.layout.rows(len(workers), job.model.device)
        by_name = job.model.layout.unflatten(delta)
        results: list[LocalResult] = []
        first = 0  # the first row that has not been passed on
        watch = self._local_fit.watch
        for name in workers:
            row = first + len(results)
            try:
                worker = self._workers.at_hand(name)
                if worker is None:
                    with watch.over(name, job.round):
                        worker = self._workers.ready(name)
                rows = {parameter: d[row] for parameter, d in by_name.items()}
                with watch.over(name, job.round):
                    results.append(self._local_fit.train(job, worker, rows))
            except Exception as error:
                refuse_lost(job.model.device, repr(name), job.round, error)
                yield from stacked(job.cohort, results, delta[first:row])
                first, results = row, []
                failure = WorkerError(name, job.round, describe(error))
                failure.__cause__ = error
                yield failure
            else:
                self.has_trained(1)
        self._remarks.changed(self._local_fit.changed)
        self._remarks.unread(self._local_fit.unread)
        self._remarks.skipped(self._local_fit.skipped)
        self._remarks.settings(watch.changed)
        self._remarks.restarted(self._local_fit.restarted)
        yield from stacked(job.cohort, results, delta[first : first + len(results)])

    @property
    def changed(self) -> Sequence[str]:
        """The attributes of the module that local training has changed so far, and that were set back."""
        return () if self._local_fit is None else self._local_fit.changed

    @property
    def unread(self) -> Sequence[str]:
        """The torchmetrics objects that a worker has filled so far, and of which nobody has read a value."""
        return () if self._local_fit is None else self._local_fit.unread

    @property
    def skipped(self) -> str | None:
        """The first worker so far whose ``training_step`` returned None; None: there is none."""
        return None if self._local_fit is None else self._local_fit.skipped

    @property
    def restarted(self) -> tuple[str, bool] | None:
        """The scheduler that begins anew in each round, and whether a step was taken at another rate than the first."""
        return None if self._local_fit is None else self._local_fit.restarted

    @property
    def changed_settings(self) -> Mapping[str, str]:
        """The settings of the process that workers have changed so far, each with the first worker that did so."""
        return {} if self._local_fit is None else self._local_fit.watch.changed

    def noted(self, settings: Mapping[str, str], warnings: Sequence[str]) -> dict[str, Any]:
        """Return what is to be remarked on in another process, as JSON has it; see ``Remarks.hear``.

        Args:
            settings: Settings of this process that workers have changed otherwise.
            warnings: The warnings of the round.
        """
        return {
            "changed": list(self.changed),
            "unread": list(self.unread),
            "restarted": self.restarted,
            "skipped": self.skipped,
            "settings": {**self.changed_settings, **settings},
            "warnings": list(warnings),
        }

    def teardown(self) -> None:
        self._local_fit = None
        self._workers = None
