"""The server as a LightningModule: one training batch is one round's cohort."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, Literal, cast, final

import torch
from torch import Tensor

from lightning_fed._lightning import (
    LRSchedulerCallable,
    OptimizerCallable,
    pl,
    rank_zero_info,
    refuse_foreign,
)
from lightning_fed.aggregation import Aggregator
from lightning_fed.algorithms import Algorithm, FedAvg
from lightning_fed.core.allocator import keep_freed_memory, return_freed_memory
from lightning_fed.core.arguments import one_of, whole
from lightning_fed.core.processes import Processes
from lightning_fed.engines import Engine, EngineOfNodes
from lightning_fed.engines.base import RunFacts
from lightning_fed.engines.names import EngineName, engine_of
from lightning_fed.hooks import (
    AFTER_BATCHES,
    BATCH_HOOKS,
    EVALUATION_STEPS,
    SERVER_HOOKS,
    lightning_parts,
    logging_through,
    overrides,
)
from lightning_fed.lightning_cli import attach
from lightning_fed.optim import LocalLRSchedule
from lightning_fed.privacy import Privacy
from lightning_fed.record import RunWriter
from lightning_fed.record.settings import hyperparameters
from lightning_fed.secure import SecureAggregation
from lightning_fed.server.callback_logs import lend_logs
from lightning_fed.server.checkpoint import Keeper, Settings
from lightning_fed.server.checks import (
    is_started_by_another,
    refuse_frozen,
    refuse_kept,
    refuse_manual,
    refuse_options,
    refuse_parts,
    refuse_synchronised,
    refuse_too_few,
    refuse_two_lengths,
    refuse_unreachable,
    refuse_unsupported,
    require_seconds,
    warn_of_lost_mean,
)
from lightning_fed.server.cohort_progress import CohortProgress
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.evaluation.asking import Asking
from lightning_fed.server.evaluation.evaluation import Evaluation
from lightning_fed.server.global_module import GlobalModule
from lightning_fed.server.guard import Guard, Open
from lightning_fed.server.kept_results import forget_results
from lightning_fed.server.loaders import Cohort, DataFacts, Position
from lightning_fed.server.privacy_guard import Private
from lightning_fed.server.processes import processes_of, tell_prepared
from lightning_fed.server.readable import Readable
from lightning_fed.server.readiness import has_lazy, leave_uncompiled, refuse_lazy
from lightning_fed.server.remarks import say_what_acts_on_rounds, say_what_is_unproven, size_of
from lightning_fed.server.results import Results
from lightning_fed.server.round import FederatedLoop
from lightning_fed.server.schedulers import over_the_run
from lightning_fed.server.secure_checks import (
    check_sealing,
    refuse_cohort,
    refuse_model,
    refuse_single_updates,
    refuse_workers_data,
    sealing_of,
)
from lightning_fed.server.secure_remarks import say_what_is_hidden
from lightning_fed.server.secure_sum import SecureSum
from lightning_fed.server.server_optimizer import server_optimizer, server_scheduler
from lightning_fed.server.session_choice import sessions
from lightning_fed.server.state_folder import StateFolder
from lightning_fed.server.training import Training
from lightning_fed.server.training_log import TrainingLog
from lightning_fed.server.transform_checks import refuse_broadcast, refuse_compression, refuse_worker_momentum
from lightning_fed.server.tuner import RateSearch, refuse_search
from lightning_fed.state import OwnState
from lightning_fed.transforms import Compressor, UpdateTransform
from lightning_fed.transforms.compression.broadcast import Broadcast
from lightning_fed.wire import Job, LocalTraining, Share
from lightning_fed.wire.contents import Leaves
from lightning_fed.wire.report import RoundReport
from lightning_fed.worker.copying import deep_copy
from lightning_fed.worker.kept import Kept
from lightning_fed.worker.outbox import Outbox, tables_of


@final
class FederatedModule(Readable):
    """Wraps an unchanged LightningModule for federated training under a stock Trainer.

    The Trainer is the server: its ``max_steps`` counts rounds, its gradient clipping acts on the aggregated update, its
    loggers, callbacks and checkpoints get the global model. Workers train with the module's own ``training_step`` and
    ``configure_optimizers``.

    Args:
        module: The user's module. It holds the global model, before, during and after training.
        algorithm: The computation of a round, such as ``FedAvg()``.
        server_optimizer: Makes the optimizer that steps on the aggregated update; SGD with lr 1 is plain averaging.
        server_lr_scheduler: Makes its scheduler, stepped once a round.
        local_epochs: Passes over a worker's training data in one round.
        local_steps: If given, exactly this many batches instead, cycling over the data; more than one of
            ``local_epochs`` beside it is refused.
        aggregator: How updates become one; None: the algorithm's own.
        transforms: Steps on updates before they leave the workers, such as clipping; last, their compression.
        engine: ``"auto"``, ``"sequential"``, ``"vectorized"``, ``"isolated"``, or an engine such as
            ``Vectorized(chunk_size=10)``. ``"auto"`` trains workers together where the module permits it and it is
            faster, else one by one: see :class:`~lightning_fed.engines.Auto`.
        on_worker_error: ``"raise"``: a worker that fails ends the run; ``"drop"``: the round goes on without it.
        min_workers: The number of workers below which a round fails even so.
        log_workers_up_to: The largest population in which every worker gets curves of its own, ``worker/<name>/...``,
            beside those of the distribution, ``workers/<metric>/{min,p10,median,p90,max,std}``; under a promise and
            under secure aggregation there are neither.
        local_lr_schedule: Factor of the learning rate of the workers' own optimizers in each round.
        local_optimizer_state: ``"fresh"``: workers begin each round with new optimizers; ``"kept"``: with the state
            that theirs had after their last round (momenta, moments), which is own state.
        local_schedule: ``"restart"``: the schedulers of workers begin anew in each round; ``"continue"``: they go on by
            each worker's own total of steps and epochs, and ``self.trainer.max_epochs``, ``max_steps`` and
            ``estimated_stepping_batches`` are those that a worker can expect of the whole run. A ReduceLROnPlateau then
            also follows the server's validations: each acts when a worker's next round begins.
        state_memory_mb: Number of MB of the workers' own state of the algorithm (SCAFFOLD, FedDyn, Ditto, personal
            layers) to keep in memory and in checkpoints; the rest lies in files, to which checkpoints refer.
        state_dir: The folder for these files; None: ``lightning_fed_state`` in the Trainer's ``default_root_dir``.
        privacy: The promise to the workers, such as ``CentralDP(clip=1.0, noise_multiplier=1.0)``.
        worker_timeout: Limit in seconds of one worker's training in a round; one that hangs is ended, and then is one
            that fails. The limit needs ``engine="isolated"``, which ``"auto"`` then takes. None: as long as it takes.
        secure_aggregation: Lets the server see sums over a cohort only, such as ``SecureAggregation(clip=10.0)``. A sum
            is without workers that fail or are away, as far as its threshold goes; beyond it a round changes nothing.
        broadcast: How the model is compressed on its way to the workers, such as ``KBit(bits=8)``; None: it is sent as
            it is.

    Raises:
        TypeError: If ``module`` is no LightningModule, or one of the other Lightning; or if another argument is of a
            wrong type.
        ValueError: If an argument is out of range.

    Example::

        fed = FederatedModule(LinearRegression(2, 1), algorithm=FedAvg())
        data = FederatedDataModule({"bob": bob_datamodule, "alice": alice_datamodule})
        pl.Trainer(max_epochs=20).fit(fed, data)
    """

    def __init__(
        self,
        module: pl.LightningModule,
        algorithm: Algorithm = FedAvg(),
        server_optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=1.0),
        server_lr_scheduler: LRSchedulerCallable | None = None,
        local_epochs: int = 1,
        local_steps: int | None = None,
        aggregator: Aggregator | None = None,  # type: ignore[type-arg]  # jsonargparse: no arguments if generic
        transforms: Sequence[UpdateTransform] = (),
        engine: Engine | EngineName = "auto",
        on_worker_error: Literal["raise", "drop"] = "raise",
        min_workers: int = 1,
        log_workers_up_to: int = 20,
        local_lr_schedule: LocalLRSchedule | None = None,
        local_optimizer_state: Literal["fresh", "kept"] = "fresh",
        local_schedule: Literal["restart", "continue"] = "restart",
        state_memory_mb: int = 256,
        state_dir: str | Path | None = None,
        privacy: Privacy | None = None,
        worker_timeout: float | None = None,
        secure_aggregation: SecureAggregation | None = None,
        broadcast: Compressor | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "__class__")}
        super().__init__()
        refuse_foreign(module, "LightningModule", "module")
        if isinstance(module, FederatedModule):
            raise TypeError("module is a FederatedModule already: give the LightningModule in it, fed.module")
        refuse_parts(algorithm, aggregator, transforms, server_optimizer)
        refuse_options(server_lr_scheduler, local_lr_schedule, state_dir, privacy, secure_aggregation, broadcast)
        warn_of_lost_mean(algorithm, aggregator)
        one_of("on_worker_error", on_worker_error, ("raise", "drop"))
        self.algorithm = algorithm
        self.server_optimizer = server_optimizer
        self.server_lr_scheduler = server_lr_scheduler
        self.local = refuse_two_lengths(LocalTraining(local_epochs, local_steps))
        self.aggregator = algorithm.aggregator() if aggregator is None else aggregator
        self.transforms = tuple(transforms)
        refuse_compression(self.transforms, algorithm, self.aggregator, privacy)
        refuse_worker_momentum(self.transforms, algorithm, self.aggregator)
        self.engine = engine_of(engine)
        self.worker_timeout = require_seconds("worker_timeout", worker_timeout)
        self.engine.limit(self.worker_timeout)
        self.on_worker_error: Literal["raise", "drop"] = on_worker_error
        self.min_workers = whole("min_workers", min_workers, least=1)
        self.log_workers_up_to = whole("log_workers_up_to", log_workers_up_to, least=0)
        self.privacy = privacy
        self.secure_aggregation = secure_aggregation
        refuse_broadcast(broadcast, algorithm)
        self.broadcast = broadcast
        own = self.aggregator if privacy is None else aggregator
        refuse_single_updates(secure_aggregation, algorithm, own, self.transforms)
        self._guard: Guard = Open() if privacy is None else Private(privacy, algorithm, aggregator)
        self.local_lr_schedule = local_lr_schedule
        self._state_folder = StateFolder(state_dir)
        kept = Kept(local_optimizer_state, local_schedule, training=self.local)
        refuse_kept(kept, algorithm)
        tables = tables_of(algorithm, self.transforms, kept)
        self._outbox = Outbox(
            algorithm,
            self.transforms,
            promise=privacy,
            kept=kept,
            own=OwnState(tables, whole("state_memory_mb", state_memory_mb, least=1) * 2**20, self._own_folder),
            broadcast=None if broadcast is None else Broadcast(broadcast),
        )
        self._keeper = Keeper(module, self._outbox.own)
        self._log = TrainingLog(self._keeper)
        self._given = {**given, "module": None}  # for whoever states what was run; the module is at its place
        self._record = RunWriter()
        self._global = GlobalModule(module, self._keeper)
        self._search = RateSearch()
        self._training: Training | None = None
        if not has_lazy(module):
            self._guard.check(self._global.model(), module)
        self._hands_over = False  # to the process that has started this one
        self._last_fit = DataFacts(Position(), {}, ())
        self.cohort_progress = CohortProgress()
        """The workers of the round at hand that are done; for progress bars."""
        self.last_report = RoundReport()
        self.leaves: Leaves | None = None
        self._run_results = Results(None if privacy is None or self._guard.shows_metrics else type(privacy).__name__)
        self._evaluation = Evaluation(
            self, module, self._model_of, on_worker_error, log_workers_up_to, self._run_results
        )
        self._log_hyperparams = True
        self._ddp_params_and_buffers_to_ignore: list[str] = []
        self.wrap(module)
        self._mirror(module)

    def _mirror(self, module: pl.LightningModule) -> None:
        """Have exactly the hooks and evaluation steps that the user's module has, as Lightning sees it."""
        for hook in SERVER_HOOKS:
            if overrides(module, hook) and hook not in type(self).__dict__:
                self.__dict__[hook] = partial(self._tell, hook)
        for step in EVALUATION_STEPS:
            if overrides(module, step):
                self.__dict__[step] = partial(self._evaluation.step, step)

    # ---- training: one batch is one cohort -------------------------------------------------------------------------

    def training_step(self, cohort: Cohort, batch_idx: int) -> Tensor:
        """Run one round; the returned loss has the cohort's mean loss as value and the aggregate as gradient."""
        assert self._training is not None
        loss, self.last_report = self._training.run(cohort, self.local, self.local_lr_schedule)
        self.leaves = self._training.leaves
        return loss

    def optimizer_step(
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Any,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Let the server optimizer step (the closure runs the round), then take over buffers and log the round."""
        assert self._training is not None
        self._training.step(partial(super().optimizer_step, epoch, batch_idx, optimizer), optimizer_closure)

    def configure_optimizers(self) -> Any:
        """The server optimizer over the global parameters, and its scheduler, stepped once a round."""
        refuse_frozen(self.module)
        optimizer = self._global.trained_parameters.optimized_by(partial(server_optimizer, self.server_optimizer))
        if self.server_lr_scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": server_scheduler(self.server_lr_scheduler, optimizer)}

    def on_train_batch_start(self, batch: Cohort, batch_idx: int) -> int | None:
        """Stop before a round that would exceed the budget of privacy."""
        if self._guard.affords_another():
            return None
        self._guard.stop(self.trainer)
        return -1

    def on_train_batch_end(self, *_: Any) -> None:
        """Drop what was noted to undo the round: it is over."""
        self._keeper.end_step()
        self._log.batch_size = None

    def on_train_epoch_end(self) -> None:
        """Empty torchmetrics objects that were logged; the user's own hook is called at the workers."""
        self._log.end_epoch(self.module)

    # ---- a run starts and ends -------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse what cannot work, then set up the user's module."""
        leave_uncompiled(self)
        forget_results(self.trainer)
        refuse_unsupported(self.module, self.trainer)
        lend_logs(self.trainer.callbacks)
        if stage == "fit":
            refuse_too_few(self.min_workers, self._datamodule.cohort_size)
            refuse_manual(self.module, self.aggregator, self.privacy)
            refuse_search(self.trainer, self.privacy, self._outbox.kept)
            refuse_cohort(self.secure_aggregation, self._datamodule.cohort_size)
            self._last_fit = self._datamodule.facts
            self.aggregator.check(self._datamodule.cohort_size)
            say_what_is_unproven(self.aggregator, self._datamodule.cohort_size)
            self.aggregator.check_population(self._datamodule.names)
            self._datamodule.sample_by(*self._guard.sampling(self._processes()))
        self._guard.check_evaluation(self._datamodule, self.trainer, self.module, stage)
        refuse_workers_data(self.secure_aggregation, self._datamodule, self.trainer, self.module)
        drops, for_data = self.on_worker_error == "drop", self._guard.for_data(self.trainer)
        refuse_unreachable(self._datamodule, self.engine)
        self._datamodule.attach(self.module, self._evaluation, drops, self.engine.teardown, for_data)
        self._datamodule.hides_workers = not self._guard.shows_metrics
        self._record.set_up(self.trainer)  # behind those that put results where they are read
        self._reach_workers()
        self._evaluation.set_up()
        self._log.set_up(self.trainer)
        self._state_folder.begin(self.trainer)
        self._keeper.attach(self.trainer)
        # The round keeps buffers equal on all processes; DDP's own broadcast before every forward pass would only make
        # processes with different numbers of evaluation batches wait for each other for ever.
        self._ddp_params_and_buffers_to_ignore = [name for name, _ in self.named_buffers()]
        self._tell("setup", stage)

    def _reach_workers(self) -> None:
        """Connect evaluations to the workers whose data lie elsewhere."""
        self._evaluation.ask = None
        if isinstance(self.engine, EngineOfNodes) and self._datamodule.lies_elsewhere:
            data = self._datamodule
            self.engine.expect(
                RunFacts(
                    seed=data.seed,
                    cohort_size=data.cohort_size,
                    least_workers=max(self.min_workers, self._guard.least_replies),
                    sampling=None if data.sampler is None else type(data.sampler).__name__,
                    simulates=None if data.availability is None else f"availability={data.availability!r}",
                )
            )
            self.engine.introduce(self.module, self._datamodule.pool, self.trainer, self._outbox)
            self._evaluation.ask = Asking(self.engine, self.trainer, self._global, self._keeper, self._guard)

    def on_fit_start(self) -> None:
        """Compare the server's optimizer with that of the checkpoint, before it takes over the state there."""
        self._search.end(self.trainer)
        self._tell("on_fit_start")
        self._keeper.check_optimizer(self.trainer, self._global.trained_parameters)
        say_what_acts_on_rounds(self.trainer, self.module)
        rank_zero_info(f"{self._datamodule.seeds}; {size_of(self.module)}")

    def on_train_start(self) -> None:
        """Make the workers' copy of the module, once it is placed and its hooks have run."""
        self._tell("on_train_start")
        refuse_lazy(self.module)
        self._search.begin(self.trainer, self.module, self.local)
        datamodule = self._datamodule
        processes = self._processes()
        refuse_synchronised(self.module, processes.size)
        processes.broadcast_(list(self.module.buffers()))
        if isinstance(self.engine, EngineOfNodes):  # nothing trains here, and messages are as large as the model
            return_freed_memory()
        elif self.device.type == "cpu":
            keep_freed_memory()
        with processes.together():
            self._global.begin_fit(self.trainer)
            self.algorithm.check(self._global.model())
            if self.privacy is None:
                refuse_model(
                    self.secure_aggregation, self.algorithm, self._global.model(), self.module, datamodule.cohort_size
                )
            if self.trainer.global_step == 0:
                self._keeper.begin_anew()
            self.engine.limit(self.worker_timeout)  # again, as several may share an engine
            self.engine.report_to(self.cohort_progress.begin_fit(hidden=not self._guard.shows_metrics))
            kept = over_the_run(self._outbox.kept, self.trainer, datamodule)
            sealing = sealing_of(self.secure_aggregation, datamodule, self._guard.promise, self.aggregator)
            self._outbox = replace(self._outbox, kept=kept, sealing=sealing)
            with self._global.trained_parameters.as_at_first():
                self.engine.setup(self.module, datamodule.pool, self.trainer, self._outbox)
            self._guard.check(self._global.model(), self.module)
            self._guard.start(datamodule, self.trainer, self.local)
            self._keeper.refuse_unwritable(self.algorithm, len(datamodule.names))
            self._keeper.promise(self._guard.run)
        if self.secure_aggregation is not None and not isinstance(self.engine, EngineOfNodes):
            remembered = tables_of(self.algorithm, self.transforms, self._outbox.kept)
            say_what_is_hidden(
                self.secure_aggregation, remembered if self.privacy is None else ()
            )  # else the guard says
        # The rounds of a search for a learning rate are none of the run.
        results = Results(None) if self._search.is_on else self._run_results
        results.begin(self.trainer.global_step)
        aggregator = self._guard.aggregator(self.aggregator)
        if sealing is not None:
            first = Job(0, 0, 0, self._global.model(), self.local, extra=self.algorithm.extra)
            check_sealing(sealing, first, self._guard.run)
            aggregator = SecureSum(aggregator, sealing, sessions(sealing, self.engine))
        loop = FederatedLoop(
            algorithm=self.algorithm,
            engine=self.engine,
            aggregator=aggregator,
            processes=processes,
            num_examples=datamodule.pool.num_examples,
            outbox=self._outbox,
            on_worker_error=self.on_worker_error,
            min_workers=max(self.min_workers, self._guard.least_replies),
            availability=datamodule.availability,
            tell_prepared=partial(tell_prepared, datamodule.pool, processes),
            progress=self.cohort_progress,
        )
        self._training = Training(
            self,
            self.module,
            loop,
            global_module=self._global,
            keeper=self._keeper,
            guard=self._guard,
            search=self._search,
            log=self._log,
            note=self._record.note,
            results=results,
            one_by_one=len(datamodule.names) <= self.log_workers_up_to,
        )
        if not self._search.is_on:
            self._record.begin(self, self._guard)

    def on_train_end(self) -> None:
        """Sign off what was released."""
        self._guard.end()
        self._tell("on_train_end")

    def teardown(self, stage: str) -> None:
        """Release the workers' copy."""
        self._tell("teardown", stage)
        self._evaluation.tear_down()
        self._log.tear_down(self.trainer)
        self.engine.teardown()
        self._training = None
        forget_results(self.trainer)
        if stage == "fit":
            self._record.end()
            self._hands_over = is_started_by_another(self.trainer)

    # ---- evaluation: the user's own steps on the global model ------------------------------------------------------

    def log(self, name: str, value: Any, *arguments: Any, **options: Any) -> None:
        """Log as every LightningModule does; about a round, with its number of examples as the size of the batch."""
        options = self._log.sized(options, arguments, self._evaluation.size)
        super().log(name, value, *arguments, **options)

    def predict_step(self, batch: Any, batch_idx: int, *rest: int) -> Any:
        """The user's own ``predict_step`` (or ``forward``) on the global model; None if the worker has failed."""
        return self._evaluation.step("predict_step", batch, batch_idx, *rest)

    def on_validation_start(self) -> None:
        """Note the model, for checkpoints that are written while another is in its place."""
        self._tell("on_validation_start")
        self._keeper.begin_evaluation(self.trainer)

    def on_validation_end(self) -> None:
        """End a validation: the model is in its place again, and the workers get what was logged."""
        self._tell("on_validation_end")
        self._keeper.end_evaluation()

    def pass_on_evaluations(self, listener: Callable[[Share], None]) -> None:
        """Let what evaluations note go to a listener, and leave to it all that comes after the batches.

        For a machine that evaluates a worker for a server elsewhere, where the user's hooks at the end of an epoch are
        then called.

        Args:
            listener: Called at the end of each evaluation.
        """
        self._evaluation.listener = listener

    def personal_module(self, worker: str) -> pl.LightningModule:
        """Return a copy of the user's module as one worker has it: with its own layers, if the algorithm leaves it any.

        Args:
            worker: The worker's name.

        Raises:
            RuntimeError: If its layers lie on another machine.

        Example::

            bobs = fed.personal_module("bob")
        """
        if self.algorithm.tables and isinstance(self.engine, EngineOfNodes):
            raise RuntimeError(
                f"what {type(self.algorithm).__name__} leaves to worker {worker!r} lies where its data are"
            )
        with self._model_of(worker):
            return deep_copy(self.module)

    def _model_of(self, worker: str | None) -> AbstractContextManager[None]:
        return self._global.holding_that_of(worker, self.algorithm, self._outbox.own)

    # ---- checkpoints: they open in the user's plain module ----------------------------------------------------------

    @property
    def hparams_initial(self) -> Any:
        """Hyperparameters for loggers: those of the user's module, and those of the federated training."""
        return hyperparameters(self, self._given_data)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint one of the user's module, with the federated part under a key of its own."""
        self._keeper.put_in_global_model(checkpoint)
        self._search.note(checkpoint)
        self._tell("on_save_checkpoint", checkpoint)
        settings = self._settings().state_dict(self._trainer)
        optimizers = [] if self._trainer is None else self._trainer.optimizers
        settings["trained"] = self._global.trained_parameters.state_dict(optimizers)
        privacy, account = self._guard.state_dict(), self._guard.account()
        position, record = self._facts.position, self._record.so_far()
        self._keeper.save(checkpoint, settings, self.engine.choice, privacy, account, position, record)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read a checkpoint of this run; for an evaluation, also one of the user's module alone."""
        trainer = self._trainer  # None: load_from_checkpoint, of the whole FederatedModule
        fitting = trainer is not None and trainer.state.fn == "fit"
        part = self._keeper.load(checkpoint, self._settings(), self._processes(), fitting=fitting)
        if fitting:
            self._datamodule.position.move(part["cohort"])
            self._record.go_on(part.get("record"))
        else:
            self._run_results.load(checkpoint.get("global_step", 0))
            self._record.load(checkpoint.get("epoch"))
        if part.get("engine") is not None:
            self.engine.resume(part["engine"])
        privacy = {**part["privacy"], **part.get("account", {})} if "privacy" in part else None
        self._guard.load_state_dict(privacy, fitting, None if trainer is None else trainer.ckpt_path)
        self._tell("on_load_checkpoint", checkpoint)

    def _settings(self) -> Settings:
        facts = self._facts
        parts = {
            "algorithm": self.algorithm,
            "aggregator": self.aggregator,
            "transforms": self.transforms,
            "privacy": self.privacy,
            "broadcast": self.broadcast,
            "secure_aggregation": self.secure_aggregation,
            "local_epochs": self.local.epochs,
            "local_steps": self.local.steps,
            "local_lr_schedule": self.local_lr_schedule,
            "local_optimizer_state": self._outbox.kept.optimizer_state,
            "local_schedule": self._outbox.kept.schedule,
            **facts.settings,
        }
        tables = tables_of(self.algorithm, self.transforms, self._outbox.kept)
        return Settings(parts, facts.names, tables, self.module)

    def state_dict(self, *args: Any, **options: Any) -> Any:
        """The weights, and from a process that was started for this fit also what it has spent of privacy."""
        state = super().state_dict(*args, **options)
        if self._hands_over:
            self._guard.handed_over(state)
        return state

    def load_state_dict(self, state_dict: Any, *args: Any, **options: Any) -> Any:
        """Load weights, and what such a process has spent."""
        self._guard.take_over(state_dict)
        return super().load_state_dict(state_dict, *args, **options)

    # ---- talking to the user's module and to the loggers -----------------------------------------------------------

    def _tell(self, hook: str, *arguments: Any) -> Any:
        """Call a hook of the user's module, if it has one, with a ``self.log`` that works."""
        if not overrides(self.module, hook) or (hook in AFTER_BATCHES and self._evaluation.listener is not None):
            return None
        if hook in BATCH_HOOKS:
            return self._evaluation.call(hook, *arguments)
        with logging_through(lightning_parts(self.module), self.log):
            return getattr(self.module, hook)(*arguments)

    def _own_folder(self) -> Path:
        return self._state_folder.of_process(self._trainer)

    @property
    def _facts(self) -> DataFacts:
        data = self._given_data
        federation = None if data is None else data.federation
        # None: the Trainer has got other data since; or the fit was in processes of its own, and nothing came back.
        return self._last_fit if federation is None else federation.facts

    def _processes(self) -> Processes:
        return processes_of(self._trainer)

    @property
    def _datamodule(self) -> FederatedDataModule:
        return cast(FederatedDataModule, self.trainer.datamodule)

    @property
    def _given_data(self) -> FederatedDataModule | None:
        """The Trainer's datamodule, if it has one of this kind."""
        data = getattr(self._trainer, "datamodule", None)
        return data if isinstance(data, FederatedDataModule) else None


# The command line reads a default from a lambda in the signature; pickle (strategy="ddp_spawn") looks it up here.
_plain_averaging = signature(FederatedModule).parameters["server_optimizer"].default
_plain_averaging.__qualname__ = "_plain_averaging"

# Where Lightning finds `optimizer_step` overridden, its GradientAccumulationScheduler warns that it is called on some
# batches only. That is about a user's own, which workers call on all of theirs.
cast(Any, FederatedModule.optimizer_step).__wrapped__ = pl.LightningModule.optimizer_step

attach(FederatedModule, FederatedDataModule)  # so that a LightningCLI of the user's needs no setting
