"""The population as a Trainer sees it: a datamodule whose training batches are cohorts of workers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Literal, cast, final, get_args

import torch

from lightning_fed._lightning import pl, rank_zero_warn, refuse_foreign
from lightning_fed.core.arguments import instance, whole
from lightning_fed.core.rng import derive
from lightning_fed.hooks import place_batch
from lightning_fed.population import EvaluationKind, Names, Population, WorkerPool, has_loader
from lightning_fed.selection import Availability, CohortSampler, Uniform
from lightning_fed.server.loaders import (
    CentralLoader,
    Cohort,
    CohortLoader,
    EvaluationBatch,
    Position,
    WorkersLoader,
    evaluation_error,
)


@final
class FederatedDataModule(pl.LightningDataModule):
    """Named workers, each with a LightningDataModule that holds its own data; one training batch is one cohort.

    Args:
        workers: Every worker's datamodule by name: a dict, or any mapping, which may be lazy (see ``Population``).
        cohort_size: How many workers take part in a round; None: every worker, every round, in the mapping's order.
        sampler: Chooses the cohort; None: uniformly, without replacement.
        rounds_per_epoch: Rounds between two epoch ends of the Trainer; None: ``ceil(population / cohort_size)``.
        val: Central data for evaluation and prediction; None: the workers' own, pooled as if they were one set.
        seed: Decides cohorts, what workers' datamodules draw in ``setup()``, batch orders, dropout: all randomness of
            training but the initial weights.
        eval_cohort_size: Evaluate on this many workers only, always the same ones, so that curves compare; None: all.
        availability: What becomes of the workers of a cohort when they are asked; None: all of them train.
        cached_workers: How many workers are kept set up; beyond it the least recently used one is torn down.

    Raises:
        TypeError: If ``workers`` is no mapping, or a value of a dict is no LightningDataModule.
        ValueError: If there is no worker, or a size is out of range.

    Example::

        data = FederatedDataModule({"bob": BobData(), "alice": AliceData()}, val=HeldOutData())
        pl.Trainer(max_epochs=20).fit(fed, data)
    """

    def __init__(
        self,
        workers: Population | Mapping[str, pl.LightningDataModule],
        cohort_size: int | None = None,
        sampler: CohortSampler | None = None,
        rounds_per_epoch: int | None = None,
        val: pl.LightningDataModule | None = None,
        seed: int = 0,
        eval_cohort_size: int | None = None,
        cached_workers: int = 1000,
        availability: Availability | None = None,
    ) -> None:
        super().__init__()
        self.names = _names(workers)
        population = len(self.names)
        cohort_size = _within("cohort_size", cohort_size, population)
        eval_cohort_size = _within("eval_cohort_size", eval_cohort_size, population)
        if rounds_per_epoch is not None:
            rounds_per_epoch = whole("rounds_per_epoch", rounds_per_epoch, least=1)
        cached_workers, seed = whole("cached_workers", cached_workers, least=1), whole("seed", seed, least=0)
        if val is not None:
            refuse_foreign(val, "LightningDataModule", "val")
        if sampler is not None:
            instance("sampler", sampler, CohortSampler, "Uniform()")
        if availability is not None:
            instance("availability", availability, Availability, "RandomAvailability(absent=0.1)")
        self.workers = workers
        self.availability = availability
        self.cohort_size = population if cohort_size is None else cohort_size
        self.rounds_per_epoch = rounds_per_epoch or math.ceil(population / self.cohort_size)
        self._sampler_is_default = sampler is None and cohort_size is not None
        self.sampler = Uniform() if self._sampler_is_default else sampler
        self.val = val
        self.seed = seed
        self.eval_cohort_size = eval_cohort_size
        self._sampling_seed: int | None = None
        self.pool = WorkerPool(workers, cached_workers, seed)
        self.position = Position()
        self._module: pl.LightningModule | None = None
        self._on_worker_error: Literal["raise", "drop"] = "raise"
        self._on_exception: Callable[[], None] | None = None
        for kind in get_args(EvaluationKind):
            if not self._evaluates(kind):
                # Lightning asks `is_overridden` whether there is such a loader: give it back its own method.
                name = f"{kind}_dataloader"
                self.__dict__[name] = partial(getattr(pl.LightningDataModule, name), self)

    def sample_by(self, default: type[CohortSampler], seed: int | None) -> None:
        """Set how cohorts are sampled in the run that begins.

        Args:
            default: The kind of sampler, if the user has chosen none.
            seed: Decides who is chosen, if that is to be a secret; None: the seed of the run.
        """
        self._sampling_seed = seed
        if self._sampler_is_default:
            self.sampler = default()

    def evaluates_workers(self, kind: EvaluationKind) -> bool:
        """Whether evaluation uses the workers' own data."""
        return self._evaluates(kind) and not (self.val is not None and has_loader(self.val, kind))

    def _evaluates(self, kind: EvaluationKind) -> bool:
        if self.val is not None and has_loader(self.val, kind):
            return True
        if isinstance(self.workers, Population):
            return self.workers.has_loader(kind)
        if isinstance(self.workers, dict):
            return any(has_loader(datamodule, kind) for datamodule in self.workers.values())
        return True

    def attach(
        self,
        module: pl.LightningModule,
        on_worker_error: Literal["raise", "drop"],
        on_exception: Callable[[], None] | None = None,
    ) -> None:
        """Get to know the server's settings; the FederatedModule calls this when a run starts.

        Args:
            module: The user's module, whose transfer hooks the batches pass.
            on_worker_error: What to do about a worker whose evaluation data raises.
            on_exception: What to do when the run ends by an error, if anything.
        """
        self._module = module
        self._on_exception = on_exception
        self._on_worker_error = on_worker_error
        self.pool.trainer = self.trainer

    def prepare_data(self) -> None:
        """Prepare the central data; a worker's own is prepared where it is first trained."""
        if self.val is not None:
            self.val.prepare_data()

    def setup(self, stage: str) -> None:
        """Set up the central data; a worker's own is set up when it is first needed."""
        if stage == "fit":
            begins = self.trainer is not None and self.trainer.global_step == 0
            self.position.move(0 if begins else self.position.next)
        if self.val is not None:
            self.val.trainer = self.trainer
            self.val.setup(stage)

    def teardown(self, stage: str) -> None:
        """Let go of all data."""
        self._on_exception = None
        self.pool.clear()
        if self.val is not None:
            self.val.teardown(stage)

    def train_dataloader(self) -> CohortLoader:
        """One batch is one cohort."""
        if self.sampler is not None:
            self.sampler.prepare(self._sizes)
        return CohortLoader(
            self.names,
            self.cohort_size,
            self.sampler,
            self.seed,
            self.rounds_per_epoch,
            self.position,
            self._sampling_seed,
        )

    @cached_property
    def _all_sizes(self) -> tuple[int, ...]:
        return tuple(self.pool.num_examples(name) for name in self.names)

    def _sizes(self) -> Sequence[int]:
        return self._all_sizes

    def complete(self, cohort: Cohort) -> None:
        """Note that the round of a cohort is over: a checkpoint from now on goes on after it."""
        self.position.next = cohort.number + 1

    def on_exception(self, exception: BaseException) -> None:
        """Let go of what the run holds, since after an error a Trainer calls no ``teardown``."""
        if self._on_exception is not None:
            self._on_exception()

    def val_dataloader(self) -> Any:
        """The central data, or the workers' own."""
        return self._evaluation_loader("val")

    def test_dataloader(self) -> Any:
        """The central data, or the workers' own."""
        return self._evaluation_loader("test")

    def predict_dataloader(self) -> Any:
        """The central data, or the workers' own."""
        return self._evaluation_loader("predict")

    def _evaluation_loader(self, kind: EvaluationKind) -> Any:
        rank = self.trainer.global_rank if self.trainer is not None else 0
        processes = self.trainer.world_size if self.trainer is not None else 1
        if self.val is not None and has_loader(self.val, kind):
            loaders = getattr(self.val, f"{kind}_dataloader")()
            if isinstance(loaders, (list, tuple)):
                return [CentralLoader(loader, rank, processes) for loader in loaders]
            return CentralLoader(loaders, rank, processes)
        names = self.names
        if self.eval_cohort_size is not None:
            chosen = random.Random(derive(self.seed, "evaluation")).sample(range(len(names)), self.eval_cohort_size)
            names = [names[position] for position in sorted(chosen)]
        if len(names) < processes:
            raise ValueError(
                f"{len(names)} workers are to be evaluated by {processes} processes; use fewer devices, or central "
                "data: FederatedDataModule(val=...)"
            )
        return WorkersLoader(self.pool, names, kind, rank, processes, partial(self._failed, kind))

    def _failed(self, kind: EvaluationKind, worker: str, error: Exception) -> None:
        failure = evaluation_error(worker, self.trainer.global_step if self.trainer else 0, kind, error)
        if self._on_worker_error == "raise":
            raise failure from error
        rank_zero_warn(f"{failure}; evaluation goes on without the rest of its data")

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the user's own batch through the hooks of its datamodule or module; a cohort has nothing to move."""
        if isinstance(batch, Cohort):
            self.position.taken = batch.number + 1  # here and not in the loader, which user code may go through as well
        if not isinstance(batch, EvaluationBatch):
            return batch
        assert self._module is not None
        datamodule = self.val if batch.worker is None else self.pool[batch.worker].datamodule
        return batch._replace(batch=place_batch(batch.batch, device, datamodule, self._module, dataloader_idx))


def _names(workers: object) -> Sequence[str]:
    if not isinstance(workers, Mapping):
        raise TypeError(
            f"workers must be a mapping from names to LightningDataModules, such as {{'bob': BobData()}}, not a "
            f"{type(workers).__name__}"
        )
    if not len(workers):
        raise ValueError("workers is empty; federated learning needs at least one worker")
    if isinstance(workers, Population):
        return Names(workers)  # too many to go through: each is checked when it is given out
    names = tuple(cast(Mapping[str, Any], workers))
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"workers: the name {name!r} must be a string that is not empty")
    if isinstance(workers, dict):
        for name in names:
            refuse_foreign(workers[name], "LightningDataModule", f"workers[{name!r}]")
    return names


def _within(argument: str, value: object, population: int) -> int | None:
    says = f" must lie between 1 and the population of {population} workers"
    return None if value is None else whole(argument, value, least=1, most=population, says=says)
