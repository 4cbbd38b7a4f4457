"""The population as a datamodule for a Trainer: its training batches are cohorts of workers."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, cast, final, get_args

import torch

from lightning_fed._lightning import pl, rank_zero_warn
from lightning_fed.core.arguments import instance, whole
from lightning_fed.core.rng import derive, global_seed
from lightning_fed.population import (
    BATCH_SIZE,
    EvaluationKind,
    Population,
    QuietTrainer,
    TrainerOfData,
    WorkerData,
    WorkerPool,
    datamodule_of,
    end_processes,
    has_loader,
    loaders_in,
    starts_afresh,
)
from lightning_fed.population.given import GivenData
from lightning_fed.selection import Availability, CohortSampler, Uniform
from lightning_fed.server.evaluation.batches import EvaluationBatches, RunningEvaluation
from lightning_fed.server.evaluation.central_loader import central_loaders
from lightning_fed.server.evaluation.elsewhere import Question, question, stand_in_loaders
from lightning_fed.server.evaluation.kinds import kind_to_come, refuse_nothing_to_evaluate, workers_have
from lightning_fed.server.evaluation.offered import Offer, agreed, offer_of
from lightning_fed.server.evaluation.workers_loader import workers_loaders
from lightning_fed.server.hyperparameters import agreeing
from lightning_fed.server.in_words import data_in_words
from lightning_fed.server.loaders import Cohort, CohortLoader, DataFacts, EvaluationBatch, Position
from lightning_fed.server.population_arguments import as_datamodules, names_of, refuse_unwrapped, within
from lightning_fed.server.preparation import Preparation
from lightning_fed.server.processes import processes_of, sizes_of, tell_prepared
from lightning_fed.server.seeds import RunSeed, Seeds
from lightning_fed.server.tuner import refuse_batch_size_search


@final
class FederatedDataModule(pl.LightningDataModule):
    """Datamodule of named workers, each with private data of its own; one training batch is one cohort.

    Args:
        workers: Every worker's data by name: a dict, or any mapping, which may be lazy (see ``Population``). Data are
            a datamodule, a DataLoader, a Dataset, or tensors or arrays such as ``(x, y)``: see ``docs/data.md``.
        cohort_size: The number of workers in a round; None: every worker, every round, in the mapping's order.
        sampler: Chooses the cohort; None: uniformly, without replacement; under a promise the one that its account
            assumes, such as ``Poisson()`` for ``CentralDP`` and ``RoundRobin()`` for ``DPFTRL``.
        rounds_per_epoch: The number of rounds in an epoch of the Trainer; None: ``ceil(population / cohort_size)``.
        val: Central data for evaluation and prediction, in the same forms; None: the workers' own data, pooled into
            one set.
        seed: The seed of all randomness of training except the initial weights: cohorts, random numbers in ``setup()``
            of workers' datamodules, batch orders, dropout. None: the seed of ``pl.seed_everything`` at the start of a
            fit; 0 if it was not called. Under a promise of privacy cohorts follow from a secret seed.
        eval_cohort_size: The number of workers to evaluate, always the same ones, for comparable curves; None: all.
        availability: Decides which workers of a cohort drop out or straggle; None: all of them train.
        cached_workers: The number of workers that are kept set up; beyond it the least recently used is torn down.
        batch_size: The number of examples in a batch of data that come without batches: Datasets, tensors and arrays.
            Training batches are shuffled if there are several.

    Raises:
        TypeError: If ``workers`` is no mapping, or a value of a dict is no supported form of data.
        ValueError: If there is no worker, a size is out of range, or data are empty or do not fit together.

    Example::

        data = FederatedDataModule({"bob": (x, y), "alice": AliceData()}, val=HeldOutData())
        pl.Trainer(max_epochs=20).fit(fed, data)
    """

    def __init__(
        self,
        workers: Population | Mapping[str, WorkerData],
        cohort_size: int | None = None,
        sampler: CohortSampler | None = None,
        rounds_per_epoch: int | None = None,
        val: WorkerData | None = None,
        seed: int | None = None,
        eval_cohort_size: int | None = None,
        cached_workers: int = 1000,
        availability: Availability | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        super().__init__()
        batch_size = whole("batch_size", batch_size, least=1)
        self.names = names_of(workers)
        population = len(self.names)
        cohort_size = within("cohort_size", cohort_size, population)
        eval_cohort_size = within("eval_cohort_size", eval_cohort_size, population)
        if rounds_per_epoch is not None:
            rounds_per_epoch = whole("rounds_per_epoch", rounds_per_epoch, least=1)
        cached_workers = whole("cached_workers", cached_workers, least=1)
        self._seed = RunSeed(None if seed is None else whole("seed", seed, least=0))
        if sampler is not None:
            instance("sampler", sampler, CohortSampler, "Uniform()")
        if availability is not None:
            instance("availability", availability, Availability, "RandomAvailability(absent=0.1)")
        self.workers = workers = as_datamodules(workers, batch_size)
        self.availability = availability
        self.cohort_size = population if cohort_size is None else cohort_size
        self.rounds_per_epoch = rounds_per_epoch or math.ceil(population / self.cohort_size)
        self._sampler_is_default = sampler is None and cohort_size is not None
        self.sampler = Uniform() if self._sampler_is_default else sampler
        self.val = None if val is None else datamodule_of(val, "val", batch_size, ("val", "test", "predict"))
        self.eval_cohort_size = eval_cohort_size
        self.cached_workers, self._batch_size = cached_workers, batch_size
        self.hides_workers = False
        """Whether nothing of the workers' hyperparameters may be logged."""
        self._log_hyperparams = any(datamodule._log_hyperparams for datamodule in self._at_hand())
        self._sampling_seed: int | None = None
        self.pool = WorkerPool(workers, cached_workers, self.seed, batch_size)
        self.position = Position()
        self._preparation = Preparation(self.pool)
        self._batches = EvaluationBatches(self.pool)
        self._drops = False
        self._on_exception: Callable[[], None] | None = None
        self._stands_in_for: tuple[pl.LightningDataModule | None] | None = None
        self._offers: dict[EvaluationKind, Offer] = {}
        self._central: dict[EvaluationKind, Any] = {}
        kinds: tuple[EvaluationKind, ...] = get_args(EvaluationKind)
        self._lacks = [kind for kind in kinds if not (self._has_central(kind) or workers_have(kind, self.workers))]
        for kind in self._lacks:
            # Lightning asks `is_overridden` whether there is such a loader: give it back its own method.
            name = f"{kind}_dataloader"
            self.__dict__[name] = partial(getattr(pl.LightningDataModule, name), self)

    def __repr__(self) -> str:
        return data_in_words(self)

    __str__ = __repr__  # Lightning's would build loaders

    def __getattr__(self, name: str) -> Any:
        """Look up in the central datamodule if there are no workers; else raise an error that names the right place."""
        if name.startswith("__") or "names" not in vars(self):  # it is being copied
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        if not self.names:
            return getattr(self.val, name)
        worker = self.names[0]
        raise AttributeError(
            f"the server's trainer.datamodule is the FederatedDataModule, which has no {name!r}; a worker's datamodule "
            f"is trainer.datamodule.workers[{worker!r}], and code that runs on a worker sees its own as "
            "self.trainer.datamodule"
        )

    def sample_by(self, default: type[CohortSampler], seed: int | None) -> None:
        """Set how cohorts are sampled in the run that begins.

        Args:
            default: The kind of sampler, if the user has chosen none.
            seed: The secret seed of cohorts; None: the seed of the run.
        """
        self._sampling_seed = seed
        if self._sampler_is_default:
            self.sampler = default()

    @property
    def seed(self) -> int:
        """The seed of the run; between runs, if none is given, that of ``pl.seed_everything``."""
        return self._seed.value

    @property
    def seeds(self) -> Seeds:
        """The seeds of the run, with the purpose of each."""
        partition = self.workers.seed if isinstance(self.workers, Population) else None
        return Seeds(global_seed(), self.seed, self._seed.follows, partition, self._sampling_seed is not None)

    @property
    def separation(self) -> int:
        """The least distance between two rounds of a worker, in rounds; 1: it may take part in the next one."""
        return 1 if self.sampler is None else self.sampler.separation(len(self.names), self.cohort_size)

    @property
    def hparams_initial(self) -> Any:
        """Hyperparameters for loggers: those on which the central datamodule and the workers' agree."""
        return agreeing(self._at_hand())

    def _at_hand(self) -> list[pl.LightningDataModule]:
        """The datamodules that exist before a worker is looked up."""
        central = [] if self.val is None else [self.val]
        return (
            central if self.hides_workers or not isinstance(self.workers, dict) else [*central, *self.workers.values()]
        )

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide which workers train when, for checkpoints."""
        return {
            "cohort_size": self.cohort_size,
            "sampler": None if self._sampler_is_default else self.sampler,
            "rounds_per_epoch": self.rounds_per_epoch,
            "seed": self.seed,
            "availability": self.availability,
        }

    @property
    def facts(self) -> DataFacts:
        """Return the facts about the data for a checkpoint."""
        return DataFacts(self.position, self.settings(), self.names)

    def hyperparameters(self) -> dict[str, Any]:
        """Return the hyperparameters for loggers."""
        return {
            "workers": len(self.names),
            "cohort_size": self.cohort_size,
            "rounds_per_epoch": self.rounds_per_epoch,
            "sampler": None if self.sampler is None else type(self.sampler).__name__,
            "seed": self.seed,
        }

    @property
    def makes_batches(self) -> bool:
        """Whether data come without batches, or may, as they are created on access."""
        if isinstance(self.workers, dict):
            known = [self.val, *self.workers.values()]
        elif isinstance(self.workers, Population) and self.workers.gives_datamodules:
            known = [self.val]
        else:
            return True
        return any(isinstance(data, GivenData) and data.makes_batches for data in known)

    @property
    def lies_elsewhere(self) -> bool:
        """Whether the workers' data lie on other machines."""
        return isinstance(self.workers, Population) and self.workers.lies_elsewhere

    @property
    def most_examples(self) -> int | None:
        """The largest number of examples of any worker; None: unknown."""
        return self.workers.most_examples if isinstance(self.workers, Population) else None

    def evaluates_workers(self, kind: EvaluationKind) -> bool:
        """Whether evaluation uses the workers' own data."""
        return not self._has_central(kind) and workers_have(kind, self.workers)

    def _has_central(self, kind: EvaluationKind) -> bool:
        return self.val is not None and has_loader(self.val, kind)

    def attach(
        self,
        module: pl.LightningModule,
        evaluation: RunningEvaluation,
        drops: bool,
        on_exception: Callable[[], None] | None = None,
        trainer: pl.Trainer | None = None,
    ) -> None:
        """Set the server's settings; the FederatedModule calls this on all processes when a run starts.

        Args:
            module: The user's module, whose transfer hooks the batches pass.
            evaluation: The evaluation of the run, which records the workers whose evaluation data raises.
            drops: Whether the run goes on without workers whose data raises.
            on_exception: Called when the run ends with an error, if given.
            trainer: The Trainer as the workers' datamodules see it; None: as it is.

        Raises:
            ValueError: If the evaluation cannot take the part of the workers' batches that it is to take.
        """
        self._on_exception = on_exception
        self._batches.attach(module, evaluation)
        self._drops = drops
        self.pool.trainer = trainer or self.trainer
        self.pool.states.lose(self._why_states_are_lost())
        self._offers.clear()
        kind = kind_to_come(self.trainer, module)
        if kind is not None and self.evaluates_workers(kind) and not self.lies_elsewhere:
            processes = processes_of(self.trainer)
            self._offers[kind] = agreed(*offer_of(self.pool, self._evaluated(), kind, self.trainer), kind, processes)
            tell_prepared(self.pool, processes)

    def _why_states_are_lost(self) -> str | None:
        if processes_of(self.trainer).size > 1:
            return "with several processes, each has a datamodule of it"
        if isinstance(self.pool.trainer, QuietTrainer):
            return "no noise covers what they say; release_metrics=True accepts that"
        return None

    def prepare_data(self) -> None:
        """Prepare the data that one process of a machine prepares for all; the Trainer calls this there."""
        self.pool.reseed(self.seed)
        self._preparation.prepare(self.val, self.trainer)

    def setup(self, stage: str) -> None:
        """Set up the central data; a worker's own is set up when it is first needed."""
        refuse_batch_size_search(self.trainer)
        self._batches.detach()  # until a FederatedModule attaches itself
        refuse_nothing_to_evaluate(stage, self._lacks)
        self.pool.reseed(self._seed.settle(processes_of(self.trainer), stage == "fit"))
        self.pool.trainer = self.trainer
        self._preparation.conclude(self.trainer)
        if stage == "fit":
            begins = self.trainer is not None and self.trainer.global_step == 0
            self.position.move(0 if begins else self.position.next)
            if begins:
                self.pool.states.clear()
        if self.val is not None:
            self.val.trainer = self.trainer
            self.val.setup(stage)

    def teardown(self, stage: str) -> None:
        """Release all data."""
        self._on_exception = None
        self._step_back("teardown", stage)
        self.pool.clear()
        for given in self._central.values():
            for loader in loaders_in(given):
                end_processes(loader)
        self._central.clear()
        if self.val is not None:
            self.val.teardown(stage)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the datamodules for checkpoints: the workers', and the central one's."""
        central = {} if self.val is None else self.val.state_dict()
        return {part: state for part, state in (("workers", self.pool.state_dict()), ("val", central)) if state}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load what :meth:`state_dict` returned into the datamodules."""
        self.pool.load_state_dict(state_dict.get("workers", {}))
        if self.val is not None and "val" in state_dict:
            self.val.load_state_dict(state_dict["val"])

    def train_dataloader(self) -> CohortLoader:
        """Return the loader of cohorts; with ``Trainer(overfit_batches=...)`` the same workers in every epoch."""
        overfit = 0.0 if self.trainer is None else self.trainer.overfit_batches  # type: ignore[attr-defined]
        part = overfit if isinstance(overfit, int) else int(overfit * self.rounds_per_epoch)
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
            repeats=min(part, self.rounds_per_epoch) or None,
        )

    @cached_property
    def _all_sizes(self) -> tuple[int, ...]:
        round = self.trainer.global_step if self.trainer is not None else 0
        sizes, failures = sizes_of(self.names, self.pool.num_examples, processes_of(self.trainer), round)
        if failures and not self._drops:
            raise failures[0] from failures[0].__cause__
        for failure in failures:
            rank_zero_warn(f"{failure}; it counts as one without examples when cohorts are drawn")
        return tuple(sizes)

    def _sizes(self) -> Sequence[int]:
        return self._all_sizes

    def complete(self, cohort: Cohort) -> None:
        """Record that the round of a cohort is over: a checkpoint from now on resumes after it."""
        self.position.next = cohort.number + 1

    def on_exception(self, exception: BaseException) -> None:
        """Release the resources of the run, since a Trainer calls no ``teardown`` after an error."""
        if self._on_exception is not None:
            self._on_exception()
        if self.val is not None:
            self.val.on_exception(exception)
        self._step_back("on_exception", exception)

    def stand_in_for(self, datamodule: pl.LightningDataModule | None) -> None:
        """Take the place of the Trainer's datamodule until the run is over.

        Args:
            datamodule: The one that the Trainer has by then, and again afterwards.
        """
        self._stands_in_for = (datamodule,)

    def _step_back(self, hook: str, *arguments: Any) -> None:
        if self._stands_in_for is None or self.trainer is None:
            return
        (datamodule,) = self._stands_in_for
        self.trainer.datamodule = datamodule  # type: ignore[attr-defined]
        if datamodule is not None and datamodule is not self.val:
            getattr(datamodule, hook)(*arguments)

    @property
    def federation(self) -> FederatedDataModule | None:
        """The workers' data: these, or those that they stand in for; None: there are no workers' data."""
        if self._stands_in_for is None:
            return self
        (datamodule,) = self._stands_in_for
        return datamodule if isinstance(datamodule, FederatedDataModule) else None

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
        processes = processes_of(self.trainer)
        if self.val is not None and has_loader(self.val, kind):
            given = self._central[kind] = getattr(self.val, f"{kind}_dataloader")()
            if starts_afresh(given) and self.trainer is not None:
                self.val.trainer = cast(pl.Trainer, TrainerOfData(self.trainer))
            return central_loaders(given, kind, self.trainer, processes)
        names = self._evaluated()
        if self.lies_elsewhere:
            loaders = cast(Population, self.workers).num_loaders(kind)
            return stand_in_loaders(names, kind, loaders, self.trainer, processes)
        offer = self._offers.get(kind) or offer_of(self.pool, names, kind, self.trainer)[0]
        return workers_loaders(self.pool, names, kind, processes, self._batches, offer)

    def question(self, kind: EvaluationKind) -> Question | None:
        """Return the request of an evaluation to workers whose data lie elsewhere; None: all data are in this process.

        Args:
            kind: The kind of loaders.
        """
        if not self.lies_elsewhere or not self.evaluates_workers(kind):
            return None
        assert self.trainer is not None
        return question(self._evaluated(), kind, self.trainer, processes_of(self.trainer))

    def _evaluated(self) -> Sequence[str]:
        """Return the workers whose own data are evaluated."""
        if self.eval_cohort_size is None:
            return self.names
        chosen = random.Random(derive(self.seed, "evaluation")).sample(range(len(self.names)), self.eval_cohort_size)
        return [self.names[position] for position in sorted(chosen)]

    @property
    def num_evaluated(self) -> int:
        """The number of workers in an evaluation of their own data."""
        return len(self.names) if self.eval_cohort_size is None else self.eval_cohort_size

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Move the user's own batch through the hooks of its datamodule or module; a cohort has nothing to move.

        Returns:
            The user's batch alone; the evaluation records its worker.

        Raises:
            TypeError: If the Trainer's module is no FederatedModule.
        """
        if self._batches.module is None and isinstance(batch, (Cohort, EvaluationBatch)):
            refuse_unwrapped(self.trainer)
        if isinstance(batch, Cohort):
            self.position.taken = batch.number + 1  # here and not in the loader, which user code may go through as well
            return batch
        if self._batches.module is None:  # no run: user code moves a batch
            return super().transfer_batch_to_device(batch, device, dataloader_idx)
        return self._batches.placed(batch, device, self.val, self.trainer, dataloader_idx)


def data_of(trainer: pl.Trainer) -> FederatedDataModule:
    """Return the workers' data that the Trainer of a FederatedModule has."""
    return cast(FederatedDataModule, trainer.datamodule)  # type: ignore[attr-defined]
