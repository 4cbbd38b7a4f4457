"""The guard of a private run: it charges before a release, refuses releases without noise, and keeps the account."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, final

from lightning_fed._lightning import pl, rank_zero_info, rank_zero_warn
from lightning_fed.aggregation import Aggregator, UniformMean
from lightning_fed.algorithms import Algorithm
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors, copy_
from lightning_fed.hooks import overrides
from lightning_fed.population import EvaluationKind, QuietTrainer
from lightning_fed.privacy import Privacy, PrivateRun, Setting
from lightning_fed.privacy.run import neighbours, released_numbers
from lightning_fed.selection import CohortSampler, Uniform
from lightning_fed.server.books import Books
from lightning_fed.server.checks import is_started_by_another
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.guard import Guard, Sampling
from lightning_fed.server.logs import Curves
from lightning_fed.wire import BudgetError, GlobalModel, Job, LocalTraining

_SAVED = ("accountant", "noise_multiplier", "bound", "epsilon", "delta", "insecure")
_STEPS = {"val": "validation_step", "test": "test_step"}


@final
class Private(Guard):
    """Guard of a run with a promise.

    Args:
        privacy: The promise.
        algorithm: The algorithm of the run.
        aggregator: The user's aggregator, if one is given.

    Raises:
        ValueError: If algorithm or aggregator would release more than the promise covers.
    """

    def __init__(self, privacy: Privacy, algorithm: Algorithm, aggregator: Aggregator[Any] | None) -> None:
        name = type(privacy).__name__
        sampler: object = privacy.sampler
        if sampler is not None and not (isinstance(sampler, type) and issubclass(sampler, CohortSampler)):
            raise ValueError(
                f"{name}.sampler is {sampler!r}; it must be the class of a sampler, such as Poisson, or None"
            )
        if not algorithm.is_mean:
            raise ValueError(
                f"{type(algorithm).__name__} cannot be made private by {name}: what it releases is no mean in which "
                "workers count equally. Use FedAvg, FedProx, Scaffold, FedDyn, Ditto or personal layers"
            )
        if privacy.counts_trainings and algorithm.trains_again is not None:
            raise ValueError(
                f"{name} counts one training in a round, but {type(algorithm).__name__} {algorithm.trains_again}"
            )
        if aggregator is not None and aggregator.goes_by_names:
            raise ValueError(
                f"aggregator={type(aggregator).__name__} does not go with {name}: it treats an update by whose it is, "
                "which a promise hides; leave privacy out of a study of attacks"
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
        self._books = Books(privacy)
        self._dimension: int | None = None

    def check(self, model: GlobalModel, module: pl.LightningModule) -> None:
        self._dimension = released_numbers(model.layout.size, self._algorithm.extra)
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
        if trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            raise ValueError(
                f"Trainer(overfit_batches={trainer.overfit_batches}) has the same workers in every epoch, and "  # type: ignore[attr-defined]
                f"{type(self.privacy).__name__} promises that they are drawn anew; leave out one of the two"
            )
        steps = trainer.estimated_stepping_batches
        setting = Setting(
            population=len(datamodule.names),
            cohort_size=datamodule.cohort_size,
            sampling=None if datamodule.sampler is None else type(datamodule.sampler),
            rounds=None if steps == float("inf") else int(steps) * trainer.accumulate_grad_batches,
            seed=datamodule.seed,
            local=local,
            separation=datamodule.separation,
            dimension=self._dimension,
        )
        saved = self._books.saved(self.run)
        keep = saved is not None and self.privacy.noise_multiplier is None
        run = self.privacy.start(setting, saved["noise_multiplier"] if saved is not None and keep else None)
        if saved is not None:
            run.load_state_dict(saved)
        remembers = type(self._algorithm).__name__ if self._algorithm.tables else None
        self._books.open(run, trainer, tuple(self._outside(run)), remembers)
        if is_started_by_another(trainer):
            self._books.packed(run)  # raises if it could not go back
        self.run = run
        Curves(trainer).show_later("epsilon", run.spent_later())
        self._tell(run, setting.population)

    def _tell(self, run: PrivateRun, population: int) -> None:
        name = type(self.privacy).__name__
        budget = "" if run.budget is None else f", stopping before ε = {run.budget:g}"
        rank_zero_info(
            f"{name}: {run.mechanism}, clipping at {run.bound:g}, δ = {run.delta:.3g}{budget}; neighbours: "
            + neighbours(run.relation, self.privacy.unit)
        )
        for what in self._outside(run):
            rank_zero_warn(f"{name}: {what}")
        if run.delta * population >= 1:
            rank_zero_warn(
                f"{name}: delta={run.delta:g} is not below 1/{population}, one divided by the number of workers; that "
                f"permits publishing one {self.privacy.unit}, whatever ε says: take delta=1e-5, or leave it out"
            )

    def _outside(self, run: PrivateRun) -> Iterator[str]:
        """Return, in words, the parts of a run that the guarantee does not cover."""
        if run.insecure:
            yield "noise comes from the seed of the run, so this run is NOT private"
        if self.privacy.release_metrics:
            yield (
                "losses, metrics and counts of workers are shown as they are (release_metrics=True); the guarantee "
                "does not cover them"
            )
        if self._algorithm.tables:
            yield (
                f"checkpoints hold what {type(self._algorithm).__name__} remembers about each worker, without noise; "
                "the guarantee covers the global model, so do not give these checkpoints away"
            )

    @property
    def shows_metrics(self) -> bool:
        return self.privacy.release_metrics

    def begin_round(self, job: Job, drawn: int) -> Job:
        assert self.run is not None
        self.run.begin(job.cohort, job.round, drawn)
        job = self.privacy.job(job, self.run)
        return replace(job, promise={**job.promise, "release_metrics": float(self.privacy.release_metrics)})

    @contextmanager
    def whole_step(self, parameters: Tensors) -> Iterator[None]:
        before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
        try:
            yield
        except BaseException:
            copy_(parameters, before)
            raise

    def for_data(self, trainer: pl.Trainer) -> pl.Trainer:
        return trainer if self.privacy.release_metrics else cast(pl.Trainer, QuietTrainer(trainer))

    def affords_another(self) -> bool:
        assert self.run is not None
        return self.run.affords_another()

    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        assert self.run is not None
        last = not self.affords_another()
        ends = step + 1 == trainer.max_steps
        curves.show_later("epsilon", self.run.spent_later())
        if due or ends or last or self.run.tells_quickly:
            spent = self.run.spent
            drawn = {"privacy/epsilon": spent, "privacy/clip": self.run.bound}
            if self.run.budget is not None:
                drawn["privacy/epsilon_budget"] = self.run.budget
                drawn["privacy/rounds_left"] = self.run.rounds_left
            curves.draw(drawn, step)
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

    def end(self) -> None:
        if self.run is not None:
            self._books.close(self.run)

    def state_dict(self) -> dict[str, Any] | None:
        state = self._books.saved(self.run)
        return None if state is None else {name: state[name] for name in _SAVED}

    def account(self) -> dict[str, Any]:
        return self._books.account(self.run)

    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool, path: str | Path | None = None) -> None:
        self._books.load(state, self.run, fitting, None if path is None else Path(path))
        if fitting:
            self.run = None

    def handed_over(self, state_dict: dict[str, Any]) -> None:
        if self.run is not None:
            self._books.hand_over(self.run, state_dict)

    def take_over(self, state_dict: dict[str, Any]) -> None:
        self.run = self._books.taken_over(state_dict) or self.run
