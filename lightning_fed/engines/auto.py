"""Chooses between the engines, by a rule and not by a stopwatch, so that a run can be repeated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import final

from torch import nn

from lightning_fed._lightning import pl, rank_zero_info
from lightning_fed.core.watch import Watch
from lightning_fed.engines.base import Engine
from lightning_fed.engines.errors import UnvectorizableError
from lightning_fed.engines.isolated import Isolated
from lightning_fed.engines.sequential import Sequential
from lightning_fed.engines.vectorized.engine import Vectorized
from lightning_fed.population import WorkerPool
from lightning_fed.wire import Job, Updates, WorkerError
from lightning_fed.worker.outbox import Outbox

_FEWEST = 4
_FEWEST_AT_A_TIME = 3.0
# A larger cohort may be more than are kept built, and to look at all of it would build workers twice; nor does one long
# worker weigh as much in it.
_LARGEST_LOOKED_AT = 256
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@final
class Auto(Engine):
    """Trains workers together where that is faster and possible, else one after another.

    The rule: one after another if

    1. the checkpoint that is resumed from was written by a run that did so;
    2. the module needs it (``UnvectorizableError`` says why);
    3. the module has convolutions and runs on a CPU, where a stack of convolutions takes two to three times as long;
    4. fewer than four workers train, as in :class:`~lightning_fed.algorithms.Cyclic`;
    5. the cohort has up to 256 workers, of which fewer than three train at a time, on average over the steps, because
       some have many times as many batches as the others: a step of one, stacked, takes as long as one of many.

    Otherwise together. If then a step fails that one worker alone can take, all go on one after another from there. A
    worker whose data alone cannot be stacked is trained by itself. The choice and its reason are logged once.

    Under a promise of privacy nothing that workers' data decide may show. Rule 5 is left out; and after a step that
    fails workers train one after another, but nothing is logged, and :attr:`choice` stays unchanged.

    Where workers are limited in time (``worker_timeout``), each is trained in a process of its own, as by
    :class:`Isolated`: no other engine can end one that hangs.
    """

    def __init__(self) -> None:
        self._vectorized = Vectorized()
        self._sequential = Sequential()
        self._isolated: Isolated | None = None
        self._choice: str | None = None
        self._recorded: str | None = None
        self._told_about_a_worker = False
        self._promised = False
        self._one_by_one = False
        self._workers: WorkerPool | None = None

    def limit(self, seconds: float | None) -> None:
        self._isolated = None if seconds is None else Isolated()
        if self._isolated is not None:
            self._isolated.limit(seconds)

    def report_to(self, listener: Callable[[int], None] | None) -> None:
        for engine in (self._vectorized, self._sequential, self._isolated):
            if engine is not None:
                engine.report_to(listener)

    def setup(
        self, module: pl.LightningModule, workers: WorkerPool, trainer: pl.Trainer, outbox: Outbox = Outbox()
    ) -> None:
        self._workers = workers
        self._promised, self._one_by_one = not outbox.may_tell, False
        recorded, self._recorded = self._recorded, None
        if self._isolated is not None:
            self._isolated.setup(module, workers, trainer, outbox)
            self._choose("isolated", "worker_timeout needs processes that can be ended")
            return
        self._sequential.setup(module, workers, trainer, outbox)
        if recorded in ("sequential", "isolated"):  # which give the same
            self._choose("sequential", "the run that wrote the checkpoint did so")
            return
        if trainer.strategy.root_device.type == "cpu" and any(isinstance(m, _CONVOLUTIONS) for m in module.modules()):
            self._choose("sequential", "convolutions on a CPU are slower when stacked")
            return
        try:
            self._vectorized.setup(module, workers, trainer, outbox)
        except UnvectorizableError as reason:
            self._choose("sequential", str(reason))
        else:
            together = f"the module can be trained on stacked parameters (cohorts under {_FEWEST} go one after another)"
            self._choose("vectorized", together)

    def run(self, job: Job, cohort: Sequence[str]) -> Iterator[Updates | WorkerError]:
        if self._isolated is not None:
            yield from self._isolated.run(job, cohort)
            return
        if job.record_privacy is not None and self._choice != "sequential":
            self._choose("sequential", "gradients of single examples are taken of one worker at a time")
        alone = self._choice == "sequential" or self._one_by_one or len(cohort) < _FEWEST
        if alone or self._at_a_time(job, cohort) < _FEWEST_AT_A_TIME:
            yield from self._sequential.run(job, cohort)
            return
        done: set[str] = set()
        for result in self._vectorized.run(job, cohort):
            if isinstance(result, Updates):
                done.update(result.workers)
                yield result
                continue
            done.add(result.worker)
            (again,) = self._sequential.run(job, [result.worker])
            yield again
            if isinstance(again, Updates) and not self._is_about_one_worker(result):
                self._one_by_one = True
                if not self._promised:
                    self._choose("sequential", f"worker {result.worker!r} cannot be stacked: {result.reason}")
                break
        yield from self._sequential.run(job, [name for name in cohort if name not in done])

    def _at_a_time(self, job: Job, cohort: Sequence[str]) -> float:
        """Return how many workers train at a time, on average over the steps, if they train together."""
        looks = not self._promised and len(cohort) <= _LARGEST_LOOKED_AT
        if (job.local.steps is not None and not job.work) or not looks:
            return len(cohort)
        assert self._workers is not None
        steps: list[float] = []
        for name in cohort:
            try:
                with Watch().over(name, job.round):
                    batches = self._workers.ready(name).batches.num_batches
            except Exception:  # an error in its data is raised when it is trained
                batches = None
            if batches is not None:
                steps.append(batches * job.work.get(name, 1.0))
        return sum(steps) / max(steps, default=1.0) + len(cohort) - len(steps)

    def _is_about_one_worker(self, failure: WorkerError) -> bool:
        cause = failure.__cause__
        about_one = isinstance(cause, UnvectorizableError) and cause.only_this_worker
        if about_one and not self._told_about_a_worker and not self._promised:
            self._told_about_a_worker = True
            rank_zero_info(f'engine="auto": some workers are trained one after another: {cause}')
        return about_one

    def _choose(self, choice: str, reason: str) -> None:
        self._choice = choice
        rank_zero_info(f'engine="auto": {choice}, because {reason}')

    @property
    def choice(self) -> str | None:
        """``"vectorized"``, ``"sequential"`` or ``"isolated"``, once it has been chosen."""
        return self._choice

    def resume(self, choice: str) -> None:
        self._recorded = choice

    def teardown(self) -> None:
        self._workers = None
        if self._isolated is not None:
            self._isolated.teardown()
        self._vectorized.teardown()
        self._sequential.teardown()
