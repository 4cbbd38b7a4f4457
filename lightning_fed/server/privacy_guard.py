"""Keeps a run private: what the server asks before, in and after a round, of a guard that may have nothing to guard."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from typing import Any, NamedTuple, final

from lightning_fed._lightning import pl, rank_zero_info, rank_zero_warn
from lightning_fed.aggregation import Aggregator, UniformMean
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.processes import Processes
from lightning_fed.hooks import overrides
from lightning_fed.population import EvaluationKind
from lightning_fed.privacy import Privacy, PrivateRun, Setting
from lightning_fed.selection import CohortSampler, Uniform
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.logs import Curves
from lightning_fed.wire import BudgetError, GlobalModel, Job, LocalTraining

_STEPS = {"val": "validation_step", "test": "test_step"}


class Guard(ABC):
    """What the server asks at every step of a run, whether or not anything is promised to the workers."""

    promise: Privacy | None = None
    """What is promised."""

    run: PrivateRun | None = None
    """What has been spent; None before a fit, and if nothing is promised."""

    @abstractmethod
    def check(self, model: GlobalModel, module: pl.LightningModule) -> None:
        """Refuse a module of which more would leave the workers than the promise covers.

        Args:
            model: The global model.
            module: The user's module.

        Raises:
            ValueError: Saying what is wrong and what to do.
        """

    @abstractmethod
    def sampling(self, processes: Processes) -> Sampling:
        """Return how cohorts are to be sampled.

        Args:
            processes: The processes, which must all sample alike.
        """

    @abstractmethod
    def check_evaluation(
        self, datamodule: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule, stage: str
    ) -> None:
        """Refuse evaluation that would release what no noise covers.

        Raises:
            ValueError: If the workers' own data would be evaluated, in training or apart from it.
        """

    @abstractmethod
    def start(self, datamodule: FederatedDataModule, trainer: pl.Trainer, local: LocalTraining) -> None:
        """Begin a fit, or go on with the run of a checkpoint or of an earlier fit.

        Raises:
            ValueError: If nothing can be promised in this setting.
        """

    @property
    @abstractmethod
    def shows_metrics(self) -> bool:
        """Whether losses, metrics and counts of workers may be shown."""

    @property
    @abstractmethod
    def least_replies(self) -> int:
        """The number of replies below which a round must release nothing."""

    @abstractmethod
    def aggregator(self, own: Aggregator[Any]) -> Aggregator[Any]:
        """Return the aggregator of the run.

        Args:
            own: The user's aggregator, or the algorithm's.
        """

    @abstractmethod
    def begin_round(self, job: Job) -> Job:
        """Charge for what the round will release, and return the job with what workers need to keep the promise."""

    @abstractmethod
    def affords_another(self) -> bool:
        """Whether another round keeps within the budget."""

    @abstractmethod
    def stop(self, trainer: pl.Trainer) -> None:
        """End the training: the next round would exceed the budget.

        Raises:
            BudgetError: If the Trainer is told to go on for longer, by ``min_steps`` or ``min_epochs``.
        """

    @abstractmethod
    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        """Show what has been spent, and stop the Trainer if another round would exceed the budget.

        Args:
            trainer: The Trainer.
            curves: Where to show it.
            step: The round that is over.
            due: Whether this round's curves are drawn.
        """

    @abstractmethod
    def hyperparameters(self) -> dict[str, Any]:
        """Return what loggers show of the promise."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any] | None:
        """Return what a checkpoint keeps."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool) -> None:
        """Go on from a checkpoint.

        Args:
            state: The result of :meth:`state_dict`; None: the checkpoint was not written by a private run.
            fitting: Whether the run goes on training.

        Raises:
            ValueError: If it is to go on without knowing what has been spent.
        """


class Sampling(NamedTuple):
    """How cohorts are sampled.

    Args:
        default: The kind of sampler, if the user has chosen none.
        seed: Decides who is chosen; None: the seed of the run.
    """

    default: type[CohortSampler] = Uniform
    seed: int | None = None


@final
class Open(Guard):
    """Guards nothing: nothing is promised."""

    def check(self, model: GlobalModel, module: pl.LightningModule) -> None:
        pass

    def sampling(self, processes: Processes) -> Sampling:
        return Sampling()

    def check_evaluation(
        self, datamodule: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule, stage: str
    ) -> None:
        pass

    def start(self, datamodule: FederatedDataModule, trainer: pl.Trainer, local: LocalTraining) -> None:
        pass

    @property
    def shows_metrics(self) -> bool:
        return True

    @property
    def least_replies(self) -> int:
        return 1

    def aggregator(self, own: Aggregator[Any]) -> Aggregator[Any]:
        return own

    def begin_round(self, job: Job) -> Job:
        return job

    def affords_another(self) -> bool:
        return True

    def stop(self, trainer: pl.Trainer) -> None:
        pass

    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        pass

    def hyperparameters(self) -> dict[str, Any]:
        return {}

    def state_dict(self) -> None:
        return None

    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool) -> None:
        if state is not None and fitting:
            rank_zero_warn(
                "the checkpoint is that of a private run, but this one has no privacy=...: from here on nothing is "
                "promised to the workers"
            )


@final
class Private(Guard):
    """Guards a promise.

    Args:
        privacy: What is promised.
        algorithm: What a round computes.
        aggregator: The user's aggregator, if one is given.

    Raises:
        ValueError: If algorithm or aggregator would release more than the promise covers.
    """

    def __init__(self, privacy: Privacy, algorithm: Algorithm, aggregator: Aggregator[Any] | None) -> None:
        name = type(privacy).__name__
        if not algorithm.is_mean:
            raise ValueError(
                f"{type(algorithm).__name__} cannot be made private by {name}: what it releases is no mean in which "
                "workers count equally. Use FedAvg, FedProx, Scaffold, FedDyn, Ditto or personal layers"
            )
        if privacy.counts_trainings and algorithm.trains_again is not None:
            raise ValueError(
                f"{name} counts one training in a round, but {type(algorithm).__name__} {algorithm.trains_again}"
            )
        if aggregator is not None and not (privacy.any_aggregator and aggregator.counts_equally):
            raise ValueError(
                f"aggregator={type(aggregator).__name__} does not go with {name}: "
                + (
                    "workers must count equally, since a number of examples is private too; use UniformMean() or a "
                    "robust aggregator"
                    if privacy.any_aggregator
                    else "the noise belongs to a sum over a fixed number of workers, with uniform weights; leave "
                    "aggregator out (and see weight_cap for weights)"
                )
            )
        self.privacy = privacy
        self.promise = privacy
        self.run = None
        self._algorithm = algorithm
        self._aggregator = aggregator
        self._saved: dict[str, Any] | None = None

    def check(self, model: GlobalModel, module: pl.LightningModule) -> None:
        leaving = [name for name in model.buffers if name.endswith("running_mean")]
        leaving = sorted(set(leaving) - set(self._algorithm.stays_local(model)))
        if leaving:
            raise ValueError(
                f"{type(self.privacy).__name__}: the module averages BatchNorm statistics ({leaving[0]}), which no "
                "noise covers; use GroupNorm in their place, or keep them with the workers: algorithm=FedBN()"
            )
        self.privacy.check_module(module)

    def sampling(self, processes: Processes) -> Sampling:
        # Whom the seed of the run chooses is no secret, and amplification by sampling needs one.
        seed = None if self.privacy.insecure_deterministic_noise else processes.gather(secrets.randbits(63))[0]
        return Sampling(self.privacy.sampler or Uniform, seed)

    def check_evaluation(
        self, datamodule: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule, stage: str
    ) -> None:
        kind: EvaluationKind | None = {"fit": "val", "validate": "val", "test": "test"}.get(stage)  # type: ignore[assignment]
        if kind is None or self.privacy.release_metrics or not overrides(module, _STEPS[kind]):
            return
        limit = trainer.limit_val_batches if kind == "val" else trainer.limit_test_batches
        if datamodule.evaluates_workers(kind) and limit:
            off = ", switch it off (Trainer(limit_val_batches=0))" if stage == "fit" else ""
            raise ValueError(
                f"{type(self.privacy).__name__}: evaluating the workers' own data would release what no noise covers; "
                f"give central data (FederatedDataModule(val=...)){off}, or accept it with release_metrics=True"
            )

    def start(self, datamodule: FederatedDataModule, trainer: pl.Trainer, local: LocalTraining) -> None:
        steps = trainer.estimated_stepping_batches
        setting = Setting(
            population=len(datamodule.names),
            cohort_size=datamodule.cohort_size,
            sampling=None if datamodule.sampler is None else type(datamodule.sampler),
            rounds=None if steps == float("inf") else int(steps) * trainer.accumulate_grad_batches,
            seed=datamodule.seed,
            local=local,
            separation=datamodule.separation,
        )
        saved = self.run.state_dict() if self.run is not None else self._saved
        keep = saved is not None and self.privacy.noise_multiplier is None
        self.run = self.privacy.start(setting, saved["noise_multiplier"] if saved is not None and keep else None)
        if saved is not None:
            self.run.load_state_dict(saved)
        self._tell(self.run)

    def _tell(self, run: PrivateRun) -> None:
        name = type(self.privacy).__name__
        budget = "" if run.budget is None else f", stopping before ε = {run.budget:g}"
        rank_zero_info(f"{name}: {run.mechanism}, clipping at {run.bound:g}, δ = {run.delta:.3g}{budget}")
        if run.insecure:
            rank_zero_warn(f"{name}: noise comes from the seed of the run, so this run is NOT private")
        if self.privacy.release_metrics:
            rank_zero_warn(
                f"{name}: losses, metrics and counts of workers are shown as they are (release_metrics=True); the "
                "guarantee does not cover them"
            )
        if self._algorithm.tables:
            rank_zero_warn(
                f"{name}: checkpoints hold what {type(self._algorithm).__name__} remembers about each worker, without "
                "noise; the guarantee covers the global model, so do not give these checkpoints away"
            )

    @property
    def shows_metrics(self) -> bool:
        return self.privacy.release_metrics

    def begin_round(self, job: Job) -> Job:
        assert self.run is not None
        self.run.cohort = job.cohort
        self.run.charge()
        return self.privacy.job(job, self.run)

    def affords_another(self) -> bool:
        assert self.run is not None
        return self.run.affords_another()

    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        assert self.run is not None
        last = not self.affords_another()
        ends = step + 1 == trainer.max_steps
        if due or ends or last or self.run.tells_quickly:
            spent = self.run.spent
            curves.draw({"privacy/epsilon": spent, "privacy/clip": self.run.bound}, step)
            curves.show({"epsilon": spent}, on_bar="epsilon")
        if last:
            self.stop(trainer)

    def stop(self, trainer: pl.Trainer) -> None:
        assert self.run is not None
        spent = f"ε = {self.run.spent:.4g} is spent, and another round would exceed {self.run.budget:g}"
        if trainer.fit_loop.min_epochs or trainer.fit_loop.min_steps:
            raise BudgetError(f"{spent}, but the Trainer has min_epochs or min_steps; leave them out")
        if not trainer.should_stop:
            rank_zero_info(f"{type(self.privacy).__name__}: training stops: {spent}")
        trainer.should_stop = True

    @property
    def least_replies(self) -> int:
        return self.privacy.least_replies()

    def aggregator(self, own: Aggregator[Any]) -> Aggregator[Any]:
        assert self.run is not None
        return self.privacy.aggregator(self.run) or self._aggregator or UniformMean()

    def hyperparameters(self) -> dict[str, Any]:
        name = type(self.privacy).__name__
        insecure = self.privacy.insecure_deterministic_noise
        return {
            "privacy": f"{name} WITH SEEDED NOISE: NOT PRIVATE" if insecure else name,
            "noise_multiplier": self.privacy.noise_multiplier,
            "epsilon_budget": self.privacy.epsilon,
        }

    def state_dict(self) -> dict[str, Any] | None:
        return self._saved if self.run is None else self.run.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool) -> None:
        if state is None and fitting:
            raise ValueError(
                f"the checkpoint does not say how much privacy was spent for it, so {type(self.privacy).__name__} "
                "cannot promise anything from here on; begin a new run, or go on without privacy="
            )
        self._saved, self.run = state, None
