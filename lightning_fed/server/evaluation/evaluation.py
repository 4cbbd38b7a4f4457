"""The user's own evaluation steps on the global model: what they log, pooled and worker by worker, and whose fail.

What is logged about workers' data, or on one of several processes, is handed to the Trainer when all batches are over.
A worker that fails in its third batch can therefore still be left out, and processes whose workers log other things, or
nothing at all, do not wait for each other: they meet once, at the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, final

from lightning_fed._lightning import extract_batch_size, pl, rank_zero_warn
from lightning_fed.core.processes import Processes
from lightning_fed.core.watch import Watch
from lightning_fed.hooks import lightning_parts, logging_through, step_arguments
from lightning_fed.server.datamodule import data_of
from lightning_fed.server.distributions import Distribution, by_metric, distributions, worker_scalars
from lightning_fed.server.evaluation.batch_trainer import about_data
from lightning_fed.server.evaluation.loader_results import LoaderResults
from lightning_fed.server.evaluation.log import EvaluationLog, LoggedShare
from lightning_fed.server.evaluation.metric_objects import MetricObjects
from lightning_fed.server.evaluation.report import EvaluationReport
from lightning_fed.server.loaders import EvaluationBatch, what_failed
from lightning_fed.server.logs import Curves
from lightning_fed.server.own_callbacks import put_first, take_out
from lightning_fed.server.processes import processes_of, tell_prepared
from lightning_fed.server.results import Results
from lightning_fed.wire import RoundError, WorkerError
from lightning_fed.worker.metric_states import MetricState


@final
class _Share(NamedTuple):
    """The part of one process in the end of an evaluation."""

    logged: LoggedShare
    failures: list[WorkerError]
    states: dict[str, MetricState]


@final
class Evaluation:
    """Runs the user's evaluation steps.

    Args:
        server: The FederatedModule, whose ``log`` reaches the Trainer.
        module: The user's module.
        model_of: Lets the module hold a worker's own model, if it has one.
        on_worker_error: ``"raise"``: a worker that fails ends the run, on all processes; ``"drop"``: it is left out.
        one_by_one_up_to: The largest population in which each worker gets curves of its own.
        results: Remembers what comes of it.
    """

    def __init__(
        self,
        server: pl.LightningModule,
        module: pl.LightningModule,
        model_of: Callable[[str | None], AbstractContextManager[None]],
        on_worker_error: Literal["raise", "drop"],
        one_by_one_up_to: int,
        results: Results,
    ) -> None:
        self._server = server
        self._module = module
        self._model_of = model_of
        self._raises = on_worker_error == "raise"
        self._one_by_one_up_to = one_by_one_up_to
        self._failures: dict[str | None, WorkerError] = {}
        self._log = EvaluationLog(server, module, self._failures)
        self._objects = MetricObjects(module)
        self._loader_results = LoaderResults()
        self._watch = Watch()
        self._now: EvaluationBatch | None = None
        self._parts: Sequence[pl.LightningModule] = ()
        self._predicted: list[list[str | None]] = []  # for each loader
        self._began = 0.0  # by time.perf_counter()
        self._results = results
        self._spreads: dict[str, Distribution] = {}
        self._said: set[str] = set()  # the metrics that are NaN at some workers

    def set_up(self) -> None:
        """Forget what an interrupted evaluation has left, and take part in the evaluations of a Trainer."""
        self._clear()
        self.finish()
        self._parts = ()
        self._said = set()
        put_first(self._server.trainer, _Progress(self))

    def tear_down(self) -> None:
        """Take no part in the Trainer's evaluations any more."""
        take_out(self._server.trainer, _Progress)

    # ---- batch by batch ----------------------------------------------------------------------------------------------

    def step(self, name: str, batch: Any, batch_idx: int, *rest: int) -> Any:
        """Run one of the user's evaluation steps on the user's own batch; None if its worker has failed."""
        step = getattr(self._module, name)
        with self._telling_others():
            if self.is_out(self.worker):
                return None
            with self._model_of(self.worker), self.about(self._now or EvaluationBatch(None, batch), name):
                output = step(*step_arguments(step, batch, batch_idx, *rest))
                self._log.count(batch)
                return output

    def call(self, hook: str, *arguments: Any) -> Any:
        """Call a hook of the user's module about the batch at hand, unless its worker has failed."""
        if self.is_out(self.worker):
            return None
        with self.about(self._now or EvaluationBatch(None, None), hook):
            return getattr(self._module, hook)(*arguments)

    @contextmanager
    def about(self, batch: EvaluationBatch, hook: str) -> Iterator[None]:
        """Let the user's module log about a batch; what fails there is its worker's failure.

        Args:
            batch: The batch.
            hook: What is called.
        """
        self._log.turn_to(batch, lru_cache(lambda: extract_batch_size(batch.batch)))
        try:
            with (
                self._over(batch.worker),
                self.seeing_data_of(batch.worker),
                logging_through(self._found_parts(), partial(self._log.log, batch)),
            ):
                yield
        except Exception as error:
            if batch.worker is None:
                raise
            self.fail(batch.worker, what_failed(f"{hook}() on its data", error), error)

    def seeing_data_of(self, worker: str | None) -> AbstractContextManager[None]:
        """Let the user's module see on its Trainer the datamodule of a worker's batch; None: the central one."""
        return about_data(self._server.trainer, self._found_parts(), worker)

    def _found_parts(self) -> Sequence[pl.LightningModule]:
        self._parts = self._parts or lightning_parts(self._module)
        return self._parts

    def _over(self, worker: str | None) -> AbstractContextManager[None]:
        return nullcontext() if worker is None else self._watch.over(worker, self._server.trainer.global_step)

    def begin_batch(self, batch: EvaluationBatch) -> None:
        """Take note of the batch that the hooks and steps to come are about."""
        self._now = batch
        if self._server.trainer.predicting:
            self._predicted[batch.loader or 0].append(batch.worker)

    @property
    def worker(self) -> str | None:
        """The worker whose batch is at hand; None: nobody's, as in an evaluation on central data."""
        return None if self._now is None else self._now.worker

    @property
    def predicted(self) -> list[Any]:
        """The workers whose batches were predicted last, in the form in which the Trainer returns predictions."""
        loaders: list[Any] = self._predicted
        return loaders[0] if len(loaders) == 1 else loaders

    def is_out(self, worker: str | None) -> bool:
        """Whether no more is asked of a worker: it has failed, or another has and that ends the evaluation."""
        return worker is not None and (worker in self._failures or (self._raises and bool(self._failures)))

    def fail(self, worker: str, reason: str, error: Exception) -> None:
        """Leave a worker out, or end the run: at once, or after the evaluation, if other processes would wait.

        Args:
            worker: Its name.
            reason: What happened, in words.
            error: The cause.

        Raises:
            WorkerError: If that ends the run.
        """
        failure = WorkerError(worker, self._server.trainer.global_step, reason)
        failure.__cause__ = error
        self._failures.setdefault(worker, failure)
        if self._raises and self._processes.size == 1:
            raise failure from error

    # ---- all batches are over ----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Look for the module's parts, and keep torchmetrics objects from waiting for processes with other batches."""
        self._parts = ()  # some may have come in since
        self._began = time.perf_counter()
        if self._processes.size > 1:
            self._objects.begin()

    def conclude(self, step: str) -> None:
        """Hand what was logged to the Trainer, the same on every process, and draw the metrics of single workers.

        Args:
            step: The name of the user's step, under which Lightning has it logged.

        Raises:
            WorkerError: If a worker failed and that ends the run.
            RoundError: If all of them did.
        """
        with self._telling_others():
            logged = self._log.share()
            states = self._objects.states() if self._processes.size > 1 else {}
            shares = self._processes.gather(_Share(logged, list(self._failures.values()), states))
        if not self._server.trainer.sanity_checking:
            self._note(shares)
        self._settle_failures(shares)
        if len(shares) > 1:
            self._objects.merge([share.states for share in shares])
        options = self._log.hand_over([share.logged for share in shares], step)
        self._loader_results.note(self._server.trainer, {name: option.loader for name, option in options.items()})
        self._show([name for name, option in options.items() if not option.is_drawn])

    def begin_prediction(self) -> None:
        """Look for the module's parts, and forget whose batches were predicted before."""
        self._parts = ()
        self._predicted = [[] for _ in range(self._server.trainer.predict_loop.num_dataloaders)]

    def conclude_prediction(self) -> None:
        """Let failures end the run on every process, or say whose predictions are missing."""
        self._settle_failures(self._processes.gather(_Share(LoggedShare(), list(self._failures.values()), {})))

    def end(self) -> None:
        """Complete the report with what Lightning has computed."""
        trainer = self._server.trainer
        if not trainer.sanity_checking:
            logged = trainer._logger_connector.metrics["callback"]  # of this evaluation, and of no other
            self._results.end_evaluation({name: float(value) for name, value in logged.items()}, self._spreads)
        self._spreads = {}
        self.finish()

    def finish(self) -> None:
        """Restore the torchmetrics objects of this process, and divide the results by loaders."""
        self._loader_results.divide()
        self._objects.end()

    def _settle_failures(self, shares: Sequence[_Share]) -> None:
        tell_prepared(data_of(self._server.trainer).pool, self._processes)
        own = dict(self._failures)
        failures = tuple(failure for share in shares for failure in share.failures)
        self._clear()
        if failures and self._raises:
            first = own.get(failures[0].worker, failures[0])  # the one that was sent has lost its cause
            raise first from first.__cause__
        for failure in failures:
            rank_zero_warn(f"{failure}; the evaluation goes on without it")
        if failures and len(failures) >= data_of(self._server.trainer).num_evaluated:
            listed = "".join(f"\n  {failure}" for failure in failures)
            raise RoundError(f"no worker is left whose data could be evaluated. What failed:{listed}")

    def _note(self, shares: Sequence[_Share]) -> None:
        """Remember what single workers have logged, in their order in the population."""
        workers = {worker: metrics for share in shares for worker, metrics in share.logged.workers.items()}
        examples = {worker: number for share in shares for worker, number in share.logged.examples.items()}
        if len(shares) > 1:
            names = data_of(self._server.trainer).names
            workers = {name: workers[name] for name in names if name in workers}
        failures = tuple(failure for share in shares for failure in share.failures)
        self._results.begin_evaluation(EvaluationReport(workers, examples, failures=failures))

    def _show(self, hidden: Collection[str]) -> None:
        """Show the distributions over workers to callbacks, and draw them, and few workers one by one."""
        trainer = self._server.trainer
        if trainer.sanity_checking:
            return
        workers = self._results.evaluation.workers
        table = by_metric(workers)
        self._spreads = distributions(table, partial(dict, table), self._said)
        curves = Curves(trainer)
        curves.show_distributions(self._spreads.values())
        own = workers if len(data_of(trainer).names) <= self._one_by_one_up_to else {}
        # The pooled values of an evaluation within a fit stand on the step of the round before it.
        step = trainer.global_step - (1 if trainer.state.fn == "fit" else 0)
        seconds = {"time/evaluate": time.perf_counter() - self._began}
        curves.draw({**worker_scalars(own, self._spreads, hidden), **seconds}, max(step, 0))

    def _clear(self) -> None:
        self._now = None
        self._failures.clear()
        self._log.clear()

    @contextmanager
    def _telling_others(self) -> Iterator[None]:
        """Context that passes an error which is no single worker's to the other processes, so that none waits."""
        try:
            yield
        except WorkerError:
            raise
        except Exception as error:
            self._processes.fail(error)

    @property
    def _processes(self) -> Processes:
        return processes_of(self._server.trainer)


@final
class _Progress(pl.Callback):
    """Calls an evaluation when it begins and when all batches are over, before other callbacks log or read metrics."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._evaluation = evaluation

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.begin()

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.conclude("validation_step")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.end()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.begin()

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.conclude("test_step")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.end()

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.begin_prediction()

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.conclude_prediction()
