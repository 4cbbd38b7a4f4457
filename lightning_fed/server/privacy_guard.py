"""Keeps a run private: what the server asks before, in and after a round of a private run."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

from lightning_fed._lightning import pl, rank_zero_info, rank_zero_warn
from lightning_fed.aggregation import Aggregator, RobustAggregator, UniformMean
from lightning_fed.algorithms import Algorithm, FedRep
from lightning_fed.core.processes import Processes
from lightning_fed.core.tree import Tensors
from lightning_fed.hooks import overrides
from lightning_fed.population import EvaluationKind
from lightning_fed.privacy import Privacy, PrivateRun, RecordDP, Setting
from lightning_fed.selection import Poisson, RoundRobin, Uniform
from lightning_fed.server.datamodule import FederatedDataModule
from lightning_fed.server.logs import Curves
from lightning_fed.transforms import UpdateTransform
from lightning_fed.wire import Aggregate, BudgetError, Job, LocalTraining, Updates

_SAMPLERS = {"Poisson": Poisson, "RoundRobin": RoundRobin}
_KNOWN = (Poisson, RoundRobin, Uniform)
_STEPS = {"val": "validation_step", "test": "test_step"}


@final
class Guard:
    """The private side of a FederatedModule.

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
        if isinstance(privacy, RecordDP) and isinstance(algorithm, FedRep):
            raise ValueError(
                "RecordDP counts one training in a round, but FedRep trains the head before the rest; use FedPer, "
                "which trains them together"
            )
        if aggregator is not None and not _counts_equally(privacy, aggregator):
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
        self.run: PrivateRun | None = None
        self.buffers: Tensors = {}
        """The global buffers, which stay as they are."""
        self._algorithm = algorithm
        self._aggregator = aggregator
        self._saved: dict[str, Any] | None = None

    def check(self, job: Job) -> None:
        """Refuse buffers that would be averaged without noise.

        Raises:
            ValueError: Naming one.
        """
        leaving = [name for name in job.model.buffers if name.endswith("running_mean")]
        leaving = sorted(set(leaving) - set(self._algorithm.stays_local(job)))
        if leaving:
            raise ValueError(
                f"{type(self.privacy).__name__}: the module averages BatchNorm statistics ({leaving[0]}), which no "
                "noise covers; use GroupNorm in their place, or keep them with the workers: algorithm=FedBN()"
            )

    def prepare(self, datamodule: FederatedDataModule, processes: Processes) -> None:
        """Choose the sampling that the promise wants, secretly."""
        if self.privacy.sampler is not None and datamodule.sampler_is_default:
            datamodule.sampler = _SAMPLERS[self.privacy.sampler]()
        if not self.privacy.insecure_deterministic_noise:
            datamodule.sampling_seed = processes.gather(secrets.randbits(63))[0]

    def check_evaluation(
        self, datamodule: FederatedDataModule, trainer: pl.Trainer, module: pl.LightningModule, stage: str
    ) -> None:
        """Refuse evaluation that would tell what no noise covers.

        Raises:
            ValueError: If the workers' own data would be evaluated, in training or apart from it.
        """
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
        """Begin a fit, or go on with the run of a checkpoint or of an earlier fit.

        Raises:
            ValueError: If nothing can be promised in this setting.
        """
        sampler = datamodule.sampler
        steps = trainer.estimated_stepping_batches
        setting = Setting(
            population=len(datamodule.names),
            cohort_size=datamodule.cohort_size,
            sampling="everyone" if sampler is None else type(sampler).__name__ if type(sampler) in _KNOWN else "other",
            rounds=None if steps == float("inf") else int(steps) * trainer.accumulate_grad_batches,
            seed=datamodule.seed,
            local=local,
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
        """Whether anything may be shown that no noise covers."""
        return self.privacy.release_metrics

    def begin_round(self, job: Job) -> Job:
        """Note which cohort is about to be trained; what its round will release is charged for before it is."""
        assert self.run is not None
        self.run.cohort = job.cohort
        self.buffers = job.model.buffers
        self.run.charge()
        return self.privacy.job(job, self.run)

    def affords_another(self) -> bool:
        """Whether another round keeps within the budget."""
        assert self.run is not None
        return self.run.affords_another()

    def after_round(self, trainer: pl.Trainer, curves: Curves, step: int, due: bool) -> None:
        """Show what has been spent, and stop the Trainer if another round would exceed the budget.

        Args:
            trainer: The Trainer.
            curves: Where to show it.
            step: The round that is over.
            due: Whether this round's curves are drawn.
        """
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
        """End the training: the next round would exceed the budget.

        Raises:
            BudgetError: If the Trainer is told to go on for longer, by ``min_steps`` or ``min_epochs``.
        """
        assert self.run is not None
        spent = f"ε = {self.run.spent:.4g} is spent, and another round would exceed {self.run.budget:g}"
        if trainer.fit_loop.min_epochs or trainer.fit_loop.min_steps:
            raise BudgetError(f"{spent}, but the Trainer has min_epochs or min_steps; leave them out")
        if not trainer.should_stop:
            rank_zero_info(f"{type(self.privacy).__name__}: training stops: {spent}")
        trainer.should_stop = True

    @property
    def aggregator(self) -> Aggregator[Any]:
        """The aggregator of the run."""
        assert self.run is not None
        return self.privacy.aggregator(self.run) or self._aggregator or UniformMean()

    @property
    def transforms(self) -> Sequence[UpdateTransform]:
        """What is done to updates last before they leave the workers."""
        assert self.run is not None
        return (_AtTheWorkers(self, self.run),)

    def state_dict(self) -> dict[str, Any] | None:
        """What a checkpoint keeps."""
        return self._saved if self.run is None else self.run.state_dict()

    def load_state_dict(self, state: dict[str, Any] | None, fitting: bool) -> None:
        """Go on from a checkpoint.

        Args:
            state: What :meth:`state_dict` gave; None: the checkpoint was not written by a private run.
            fitting: Whether the run goes on training.

        Raises:
            ValueError: If it is to go on without knowing what has been spent.
        """
        if state is None and fitting:
            raise ValueError(
                f"the checkpoint does not say how much privacy was spent for it, so {type(self.privacy).__name__} "
                "cannot promise anything from here on; begin a new run, or go on without privacy="
            )
        self._saved, self.run = state, None


@final
class _AtTheWorkers(UpdateTransform):
    """The worker's side of a promise, as the last transform. Noise covers parameters; buffers do not leave."""

    def __init__(self, guard: Guard, run: PrivateRun) -> None:
        self._guard = guard
        self._run = run

    def worker(self, updates: Updates) -> Updates:
        n = len(updates.workers)
        buffers = {name: buffer.expand(n, *buffer.shape) for name, buffer in self._guard.buffers.items()}
        return self._guard.privacy.worker(replace(updates, buffers=buffers), self._run)

    def server(self, aggregate: Aggregate) -> Aggregate:
        # A mean of equal numbers may be off by their rounding.
        return replace(aggregate, buffers={name: buffer.clone() for name, buffer in self._guard.buffers.items()})


def privacy_hyperparameters(privacy: Privacy) -> dict[str, Any]:
    """What loggers show of a promise."""
    name = type(privacy).__name__
    return {
        "privacy": f"{name} WITH SEEDED NOISE: NOT PRIVATE" if privacy.insecure_deterministic_noise else name,
        "noise_multiplier": privacy.noise_multiplier,
        "epsilon_budget": privacy.epsilon,
    }


def _counts_equally(privacy: Privacy, aggregator: Aggregator[Any]) -> bool:
    return privacy.any_aggregator and isinstance(aggregator, (UniformMean, RobustAggregator))
