"""The fit at the server: a batch of its Trainer runs a round, a step of its optimizer applies the aggregate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast, final

import torch
from torch import Tensor

from lightning_fed._lightning import pl
from lightning_fed.core.autocast import outside_autocast
from lightning_fed.core.pseudo_gradient import pseudo_gradient
from lightning_fed.core.tree import Tensors
from lightning_fed.optim import LocalLRSchedule
from lightning_fed.server.checkpoint import Keeper
from lightning_fed.server.checks import refuse_no_round
from lightning_fed.server.datamodule import FederatedDataModule, data_of
from lightning_fed.server.distributions import Distribution, distributions
from lightning_fed.server.global_module import GlobalModule
from lightning_fed.server.guard import Guard
from lightning_fed.server.loaders import Cohort
from lightning_fed.server.logs import Curves, round_scalars
from lightning_fed.server.results import Results
from lightning_fed.server.round import FederatedLoop, Outcome
from lightning_fed.server.round_result import Round, StepResult, merged_buffers
from lightning_fed.server.run_scalars import cohort_scalars, server_rate
from lightning_fed.server.secure_remarks import SecureRemarks
from lightning_fed.server.traffic import Traffic
from lightning_fed.server.training_log import TrainingLog
from lightning_fed.server.tuner import RateSearch
from lightning_fed.wire import Job, LocalTraining, Updates
from lightning_fed.wire.contents import Leaves
from lightning_fed.wire.report import RoundReport
from lightning_fed.worker.leaves import leaves_of
from lightning_fed.worker.module_tensors import put


@final
class Training:
    """Runs the rounds of one fit, and steps the server optimizer on their aggregates.

    Args:
        server: The FederatedModule, whose Trainer fits.
        module: The user's module.
        loop: Runs a round.
        global_module: Reads the global model off the user's module.
        keeper: Stores the state of finished rounds.
        guard: Called before, in and after a round.
        search: Sets the workers' learning rates in a search for one.
        log: Shows logged values.
        note: Called after a server step, with its number, its result, and the Trainer's epoch.
        results: Stores the results of rounds.
        one_by_one: Whether each worker gets curves of its own.
    """

    def __init__(
        self,
        server: pl.LightningModule,
        module: pl.LightningModule,
        loop: FederatedLoop,
        global_module: GlobalModule,
        keeper: Keeper,
        guard: Guard,
        search: RateSearch,
        log: TrainingLog,
        note: Callable[[int, StepResult, int], None],
        results: Results,
        one_by_one: bool,
    ) -> None:
        self._server = server
        self._module = module
        self._loop = loop
        self._global = global_module
        self._keeper = keeper
        self._guard = guard
        self._search = search
        self._log = log
        self._note = note
        self._run_results = results
        self._sums = SecureRemarks(promised=guard.promise is not None)
        self._said: set[str] = set()  # the metrics that are NaN at some workers
        self._one_by_one = one_by_one
        self._pending: list[Round] = []  # several only while gradients accumulate over several cohorts
        self._last_cohort: Cohort | None = None
        self.leaves: Leaves | None = None
        """Everything that left a worker in the first round and that it was sent; None: no worker has replied yet.

        Where a promise hides who replies, it is there after the first round all the same.
        """

    def run(self, cohort: Cohort, local: LocalTraining, schedule: LocalLRSchedule | None) -> tuple[Tensor, RoundReport]:
        """Run one round.

        Args:
            cohort: Its workers.
            local: The length of each worker's training.
            schedule: The factor of the workers' learning rates over rounds; None: 1.

        Returns:
            A loss with the cohort's mean loss as value and the aggregate as gradient; and what the workers reported, as
            far as it may be shown.
        """
        started = time.perf_counter()
        parameters = self._global.trained()
        job = self._job(cohort, parameters, local, schedule)
        job = self._guard.begin_round(job, drawn=self._datamodule.position.taken)
        device = self._server.device
        curves = self._curves
        shows_single = self._guard.promise is None and self._loop.outbox.sealing is None
        measures = shows_single and curves.are_due and curves.have_loggers
        with outside_autocast(device.type):  # the workers' forward passes enter their own
            look = None if self.leaves else self._look
            outcome = self._loop.run(job, cohort.workers, self._pending_state(), look, measures)
        self.leaves = self.leaves or outcome.report.leaves
        over = self._round(cohort, outcome, started)
        self._sums.note(over.report)
        self._pending.append(over)
        self._last_cohort = cohort
        cohort.end_round(over.examples)
        self._log.batch_size = len(cohort)
        loss = torch.tensor(over.loss, dtype=torch.float32, device=device)
        if over.examples:  # else there is nothing to average
            has_loss = self._module.automatic_optimization or not math.isnan(over.loss)
            curves.show_round(over.loss if has_loss else None, over.logged)
        gradients = job.model.layout.unflatten(outcome.aggregate.delta)
        return pseudo_gradient(loss, list(parameters.values()), [gradients[name] for name in parameters]), over.report

    def step(self, take: Callable[[Callable[[], Any]], None], closure: Callable[[], Any] | None) -> None:
        """Step the server optimizer, then load the new buffers, and log and store the rounds.

        Args:
            take: Performs the step; it receives a closure to call, which runs the round.
            closure: Lightning's own closure.

        Raises:
            RoundError: If the optimizer did not call the closure.
        """
        trainer, position = self._trainer, self._datamodule.position
        step, curves = trainer.global_step, self._curves
        due = curves.are_due
        draw = due and curves.have_loggers
        trained = self._global.trained()
        earlier = len(self._pending)
        self._global.trained_parameters.join(trained, trainer.optimizers)
        with self._keeper.stepping(position):
            with self._guard.whole_step(trained), self._search.with_servers_own(trainer):
                take(partial(self._heard, closure))
                refuse_no_round(len(self._pending) > earlier, step)
            rounds, self._pending = self._pending, []
            put(self._module, merged_buffers(rounds))
            self._guard.after_round(trainer, curves, step, due)
            self._keeper.after(rounds, self._guard.run, trainer.current_epoch)
            result = StepResult(rounds)
            spreads = distributions(result.metrics, result.table, self._said)
            curves.show_distributions(spreads.values())
            if draw:
                before = self._keeper.before_step()
                steps = [(before[name] - p.detach()).norm() for name, p in trained.items()]
                norm = float(torch.stack(steps).norm())
                of_cohort = self._of_cohort(result, spreads) if self._guard.shows_metrics else {}
                of_server = {**self._keeper.state.traffic.scalars, **server_rate(trainer.optimizers)}
                curves.draw({**of_cohort, **of_server, "server/update_norm": norm}, step)
            self._log.take_in(self._module, rounds)
            self._note(step, result, trainer.current_epoch)
            self._datamodule.complete(cast(Cohort, self._last_cohort))
        self._run_results.note_round(step, trainer.current_epoch, result)

    def _heard(self, closure: Callable[[], Any] | None) -> Any:
        """Run the round; if no worker sent an update, the optimizer finds no gradient, and not even momentum moves."""
        loss = None if closure is None else closure()
        changes = {*self._global.trained(), *self._pending[-1].aggregate.buffers}
        self._keeper.begin_step(self._trainer, changes, self._datamodule.position)
        if any(r.aggregate.changes for r in self._pending):
            return loss
        for parameter in self._global.trained().values():
            parameter.grad = None
        return None

    def _look(self, updates: Updates | None, job: Job) -> Leaves | None:
        """Record the contents of one worker's messages, once in a fit."""
        return leaves_of(updates, job, self._loop.outbox, self._datamodule.names)

    def _round(self, cohort: Cohort, outcome: Outcome, started: float) -> Round:
        """Return the stored result of a round, as far as it may be shown."""
        if not self._guard.shows_metrics:
            traffic = outcome.planned.times(self._datamodule.cohort_size)
            return Round(cohort.number, outcome, RoundReport(), time.perf_counter() - started, traffic=traffic)
        report = outcome.report
        replied = set(report.names)
        took_part = [
            place for worker, place in zip(cohort.workers, cohort.positions, strict=False) if worker in replied
        ]
        traffic = Traffic(report.bytes_down, report.bytes_up)
        seconds = time.perf_counter() - started
        return Round(cohort.number, outcome, report, seconds, cohort.workers, traffic, took_part)

    def _of_cohort(self, result: StepResult, spreads: Mapping[str, Distribution]) -> dict[str, float]:
        """The curves that are about workers."""
        coverage = self._keeper.state.coverage.share(of=len(self._datamodule.names))
        return {**round_scalars(result, spreads, self._one_by_one), **cohort_scalars(result, coverage)}

    def _pending_state(self) -> Tensors:
        """Return the server state after the cohorts whose gradients have been accumulated."""
        return self._pending[-1].outcome.server if self._pending else self._keeper.state.tensors

    def _job(self, cohort: Cohort, parameters: Tensors, local: LocalTraining, schedule: LocalLRSchedule | None) -> Job:
        """Return the job of a cohort."""
        self._global.refuse_new(parameters)
        loop, trainer = self._loop, self._trainer
        algorithm = loop.algorithm
        self._keeper.refuse_other_layers(loop.outbox, loop.aggregator, list(parameters))
        round = trainer.global_step
        scheduled = 1.0 if schedule is None else schedule.factor(round)
        # StochasticWeightAveraging passes over the data once more, for BatchNorm's statistics and nothing else.
        is_for_statistics = trainer.fit_loop._skip_backward
        model, broadcast = self._global.model(parameters), self._loop.outbox.broadcast
        if broadcast is not None:
            with outside_autocast(self._server.device.type):
                model = broadcast.compressed(model, cohort.seed, cohort.number)
        return Job(
            round=round,
            cohort=cohort.number,
            seed=cohort.seed,
            model=model,
            local=local,
            last=self._keeper.state.last,
            failed=self._keeper.state.failed,
            epoch=trainer.current_epoch,
            validated=self._keeper.state.validated,
            attributes=self._global.changed_attributes(),
            population=len(self._datamodule.names),
            lr_factor=0.0 if is_for_statistics else self._search.factor(scheduled),
            extra=algorithm.extra,
        )

    @property
    def _trainer(self) -> pl.Trainer:
        return self._server.trainer

    @property
    def _curves(self) -> Curves:
        return Curves(self._trainer)

    @property
    def _datamodule(self) -> FederatedDataModule:
        return data_of(self._trainer)
