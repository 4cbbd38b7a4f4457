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
from typing import Any, Literal, TypeAlias, final

from torch import nn

from lightning_fed._lightning import extract_batch_size, pl, rank_zero_warn
from lightning_fed.core.processes import Processes
from lightning_fed.core.watch import Watch
from lightning_fed.hooks import lightning_parts, logging_through, overrides, step_arguments
from lightning_fed.population import EvaluationKind
from lightning_fed.server.datamodule import data_of
from lightning_fed.server.distributions import Distribution, by_metric, distributions, worker_scalars
from lightning_fed.server.evaluation.batch_trainer import about_data
from lightning_fed.server.evaluation.elsewhere import Answers, Predicted, StandIn
from lightning_fed.server.evaluation.loader_results import LoaderResults
from lightning_fed.server.evaluation.log import EvaluationLog
from lightning_fed.server.evaluation.metric_objects import MetricObjects
from lightning_fed.server.evaluation.report import EvaluationReport
from lightning_fed.server.loaders import EvaluationBatch, what_failed
from lightning_fed.server.logs import Curves
from lightning_fed.server.own_callbacks import put_first, take_out
from lightning_fed.server.processes import processes_of, tell_prepared
from lightning_fed.server.results import Results
from lightning_fed.wire import RoundError, Share, WorkerError
from lightning_fed.wire.container import Buffer

Ask: TypeAlias = Callable[
    [EvaluationKind, Sequence[str], int | float | None], Iterator[tuple[str, Buffer | WorkerError]]
]
"""Asks for evaluations where the data are; see :meth:`lightning_fed.engines.base.EngineOfNodes.evaluate`."""


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
        self._run_results = results
        self._spreads: dict[str, Distribution] = {}
        self._said: set[str] = set()  # the metrics that are NaN at some workers
        self.ask: Ask | None = None
        """Asks those whose data lie elsewhere; None: all data are here."""
        self.listener: Callable[[Share], None] | None = None
        """Takes what this process has noted, in place of the Trainer; what follows the batches is the listener's."""
        self._answers: Answers | None = None  # of those whose data lie elsewhere
        self._shares: dict[str, Share] = {}  # theirs, in their order
        self._said_filled = False
        self._stand_in: StandIn | None = None
        self._lengths: dict[str, int] = {}  # of the lists and dicts on the module, before the first batch
        self._batches: dict[str, int] = {}  # by worker

    def set_up(self) -> None:
        """Clear the state of an interrupted evaluation, and register with a Trainer's evaluations."""
        self._clear()
        self.finish()
        self._parts = ()
        self._said = set()
        self._said_filled = False
        put_first(self._server.trainer, _Progress(self))

    def tear_down(self) -> None:
        """Take no part in the Trainer's evaluations any more."""
        take_out(self._server.trainer, _Progress)

    # ---- batch by batch ----------------------------------------------------------------------------------------------

    def step(self, name: str, batch: Any, batch_idx: int, *rest: int) -> Any:
        """Run one of the user's evaluation steps on the user's own batch; None if its worker has failed."""
        if isinstance(batch, StandIn):
            return self._step_elsewhere(batch)
        step = getattr(self._module, name)
        with self._telling_others():
            if self.is_out(self.worker):
                return None
            with self._model_of(self.worker), self.about(self._now or EvaluationBatch(None, batch), name):
                output = step(*step_arguments(step, batch, batch_idx, *rest))
                self._log.count(batch)
                if self.worker is not None:
                    self._batches[self.worker] = self._batches.get(self.worker, 0) + 1
                return output

    def call(self, hook: str, *arguments: Any) -> Any:
        """Call a hook of the user's module about the batch at hand, unless its worker has failed."""
        if self.is_out(self.worker) or self._stand_in is not None:
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
        self._stand_in = batch.batch if isinstance(batch.batch, StandIn) else None
        if self._stand_in is not None:
            self._take_answers(self._stand_in)
        if self._server.trainer.predicting:
            self._predicted[batch.loader or 0].append(batch.worker)

    def _take_answers(self, batch: StandIn) -> None:
        """Wait for the answers of workers whose data lie elsewhere."""
        with self._telling_others():
            for worker in self._asked_of(batch):
                if self._answers is not None and worker not in self._shares and not self.is_out(worker):
                    try:
                        self._shares[worker] = self._answers.of(worker)
                    except WorkerError as error:
                        self.fail(worker, error.reason, error)
        there = [self._shares[worker].logged.examples for worker in batch.workers if worker in self._shares]
        batch.examples = sum(number for examples in there for number in examples.values())

    def _asked_of(self, batch: StandIn) -> Sequence[str]:
        return batch.workers[:1] if self._server.trainer.sanity_checking else batch.workers

    def _step_elsewhere(self, batch: StandIn) -> Any:
        """Show what steps elsewhere have shown; the result is that of a prediction, and else None."""
        shares = {worker: self._shares[worker] for worker in self._asked_of(batch) if worker in self._shares}
        for share in shares.values() if not batch.loader else ():
            self._log.show_step(share.logged.steps)
        if not self._server.trainer.predicting:
            return None
        results = [
            Predicted(worker, share.batches.get(worker, 0), share.logged.examples.get(worker))
            for worker, share in shares.items()
        ]
        return results[0] if len(batch.workers) == len(results) == 1 else results

    @property
    def size(self) -> int | None:
        """The number of examples of the workers whose stand-in is at hand; None: there is none at hand."""
        return None if self._stand_in is None else self._stand_in.size()

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

    def begin(self, kind: EvaluationKind) -> None:
        """Look for the module's parts, and keep torchmetrics objects from waiting for processes with other batches.

        Args:
            kind: The loaders on which workers are evaluated; those elsewhere are asked for it.
        """
        self._parts = ()  # some may have come in since
        self._began = time.perf_counter()
        if self._processes.size > 1:
            self._objects.begin()
        self._begin_elsewhere(kind)

    def _begin_elsewhere(self, kind: EvaluationKind) -> None:
        self._lengths = _lengths(self._found_parts()) if self.listener is not None else {}
        self._answers, question = None, data_of(self._server.trainer).question(kind)
        if question is not None:
            assert self.ask is not None
            with self._telling_others():
                answers = self.ask(kind, question.workers, question.limit)
            data, round = data_of(self._server.trainer), self._server.trainer.global_step
            self._answers = Answers(answers, self._module, round, data.most_examples)

    def conclude(self, step: str) -> None:
        """Hand what was logged to the Trainer, the same on every process, and draw the metrics of single workers.

        Args:
            step: The name of the user's step, under which Lightning has it logged.

        Raises:
            WorkerError: If a worker failed and that ends the run.
            RoundError: If all of them did.
        """
        with self._telling_others():
            self._leave_out_odd()
            own = self._own_share()
            if self.listener is not None:
                self._clear()
                return self.listener(own)
            parts = self._processes.gather([own, *self._shares.values()])
        shares = [share for theirs in parts for share in theirs]
        self._say_what_stays(shares)
        if not self._server.trainer.sanity_checking:
            self._note(shares)
        self._settle_failures(shares)
        if len(shares) > 1:
            self._objects.merge([share.states for share in shares])
        options = self._log.hand_over([share.logged for share in shares], step)
        self._loader_results.note(self._server.trainer, {name: option.loader for name, option in options.items()})
        self._show([name for name, option in options.items() if not option.is_drawn])

    def _leave_out_odd(self) -> None:
        """Leave out the workers elsewhere whose answers cannot be merged with those of most others."""
        for error in () if self._answers is None else self._answers.odd():
            self._shares.pop(error.worker, None)
            self.fail(error.worker, error.reason, error)

    def _own_share(self) -> Share:
        """Return what this process has noted itself."""
        failures = tuple(self._failures.values())
        passes_on = self.listener is not None
        logged = self._log.share()
        shared = passes_on or (self._processes.size > 1 and self._answers is None)
        states = self._objects.states() if shared else {}
        if not passes_on:
            return Share(logged, failures, states)
        now = _lengths(self._found_parts())
        filled = tuple(path for path, length in self._lengths.items() if now.get(path, 0) > length)
        return Share(logged, failures, states, batches=dict(self._batches), filled=filled)

    def _say_what_stays(self, shares: Sequence[Share]) -> None:
        """Warn of lists that steps elsewhere have filled, if a hook at the end may read them on the server."""
        hook = "on_test_epoch_end" if self._server.trainer.testing else "on_validation_epoch_end"
        filled = dict.fromkeys(path for share in shares for path in share.filled)
        if filled and overrides(self._module, hook) and not self._said_filled:
            self._said_filled = True
            rank_zero_warn(
                f"{type(self._module).__name__}: steps where the data are have filled {', '.join(filled)}, which "
                f"{hook}() does not see at the server: keep what it reads in torchmetrics objects, whose states come "
                "back, or log it in the step"
            )

    def begin_prediction(self) -> None:
        """Find the module's parts, and clear the workers of earlier predictions."""
        self._parts = ()
        self._predicted = [[] for _ in range(self._server.trainer.predict_loop.num_dataloaders)]
        self._begin_elsewhere("predict")

    def conclude_prediction(self) -> None:
        """End the run on every process if a worker has failed, or log whose predictions are missing."""
        self._leave_out_odd()
        own = self._own_share()
        if self.listener is not None:
            self._clear()
            return self.listener(own)
        self._settle_failures(self._processes.gather(Share(failures=tuple(self._failures.values()))))

    def end(self) -> None:
        """Complete the report with what Lightning has computed."""
        trainer = self._server.trainer
        if not trainer.sanity_checking:
            logged = trainer._logger_connector.metrics["callback"]  # of this evaluation, and of no other
            self._run_results.end_evaluation({name: float(value) for name, value in logged.items()}, self._spreads)
        self._spreads = {}
        self.finish()

    def finish(self) -> None:
        """Restore the torchmetrics objects of this process, and divide the results by loaders."""
        self._loader_results.divide()
        self._objects.end()

    def _settle_failures(self, shares: Sequence[Share]) -> None:
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

    def _note(self, shares: Sequence[Share]) -> None:
        """Remember what single workers have logged, in their order in the population."""
        workers = {worker: metrics for share in shares for worker, metrics in share.logged.workers.items()}
        examples = {worker: number for share in shares for worker, number in share.logged.examples.items()}
        if len(shares) > 1:
            names = data_of(self._server.trainer).names
            workers = {name: workers[name] for name in names if name in workers}
        failures = tuple(failure for share in shares for failure in share.failures)
        self._run_results.begin_evaluation(EvaluationReport(workers, examples, failures=failures))

    def _show(self, hidden: Collection[str]) -> None:
        """Show the distributions over workers to callbacks, and draw them, and few workers one by one."""
        trainer = self._server.trainer
        if trainer.sanity_checking:
            return
        workers = self._run_results.evaluation.workers
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
        self._answers = self._stand_in = None
        self._shares, self._batches = {}, {}

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
        self._evaluation.begin("val")

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.conclude("validation_step")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.end()

    def on_test_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.begin("test")

    def on_test_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.conclude("test_step")

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.end()

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.begin_prediction()

    def on_predict_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._evaluation.conclude_prediction()


def _lengths(parts: Sequence[nn.Module]) -> dict[str, int]:
    """Return the lengths of the lists and dicts that the user's code keeps on a module and its LightningModules."""
    ours = vars(pl.LightningModule())
    return {
        f"{type(part).__name__}.{name}": len(value)
        for part in parts
        for name, value in vars(part).items()
        if isinstance(value, (list, dict)) and name not in ours
    }
