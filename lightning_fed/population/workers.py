"""A worker: its name, and its data, set up at first use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, lru_cache
from itertools import chain
from typing import Any, Literal, TypeAlias, cast, final

from lightning_fed._lightning import RunningStage, is_overridden, pl, refuse_foreign
from lightning_fed.core.rng import derive, restored, seed_generators
from lightning_fed.core.watch import text_of
from lightning_fed.hooks import TRANSFER_HOOKS
from lightning_fed.population.base import EvaluationKind
from lightning_fed.population.batches import Batches, IndexedBatches, batches_of
from lightning_fed.population.combined import loaders_in, unshuffled
from lightning_fed.population.datamodule_states import DatamoduleStates
from lightning_fed.population.loader_processes import end_processes
from lightning_fed.population.prepared import Prepared
from lightning_fed.population.trainer_of_data import TrainerOfData, starts_afresh

Stage: TypeAlias = Literal["fit", "validate", "test", "predict"]

AS_THEY_ARE = nullcontext()


@final
class Worker:
    """One participant: its name and the datamodule that holds its data, set up at first use.

    All draws of the datamodule from the global generators, in ``prepare_data``, in ``setup`` and in building a loader,
    are a function of the seed and the name, for any number and order of calls. Each of these calls starts from the
    same seed, so a split is the same in every stage and for every loader.

    Args:
        name: The worker's name.
        datamodule: The worker's data.
        trainer: The Trainer of the datamodule.
        seed: The seed of the run; None: the datamodule draws nothing.
        prepared: The workers that other processes have prepared; None: there are no others.
        states: The states to restore into datamodules.
    """

    def __init__(
        self,
        name: str,
        datamodule: pl.LightningDataModule,
        trainer: pl.Trainer | None,
        seed: int | None = 0,
        prepared: Prepared | None = None,
        states: DatamoduleStates | None = None,
    ) -> None:
        refuse_foreign(datamodule, "LightningDataModule", f"workers[{name!r}]")
        self.name = name
        self.datamodule = datamodule
        self.datamodule.trainer = trainer
        kind: Any = type(datamodule)  # mypy does not treat a class as hashable
        patched = any(hook in vars(datamodule) for hook in TRANSFER_HOOKS)
        self.transfers_plainly = _transfers_plainly(kind) and not patched
        """Whether its batches only have to be moved to the device."""
        self._trainer = trainer
        self._seed = seed
        self._prepared = prepared
        self._states = states
        self._stages: set[str] = set()
        self._batches: Batches | None = None
        self._loaders: dict[str, Sequence[Iterable[Any]]] = {}
        self._edition = 0
        self._is_unheeded = False
        """Whether changes to the global generators do not matter, since they are seeded next."""

    def __repr__(self) -> str:
        return f"Worker({self.name!r}, {type(self.datamodule).__name__})"

    def setup(self, stage: Stage) -> None:
        """Prepare the data and set it up for a stage, once."""
        with self._restored():
            self._set_up(stage)

    def _restored(self) -> AbstractContextManager[None]:
        return AS_THEY_ARE if self._seed is None or self._is_unheeded else restored()

    def _set_up(self, stage: Stage) -> None:
        is_first = not self._stages
        if is_first:
            self._prepare()
        if stage not in self._stages:
            self._call("setup", stage)
            self._stages.add(stage)
        if is_first and self._states is not None:
            self._states.give(self.name, self.datamodule)

    @property
    def is_set_up(self) -> bool:
        """Whether its data have been set up for any stage."""
        return bool(self._stages)

    def _prepare(self) -> None:
        if self._prepared is None:
            self._call("prepare_data")
        elif not self._prepared.has(self.name) and prepares(self.datamodule):
            self._call("prepare_data")
            self._prepared.note(self.name, self.datamodule.prepare_data_per_node)

    def _call(self, hook: str, *arguments: Any, edition: int = 0) -> Any:
        """Call a hook of the datamodule, if defined, which may draw; the caller restores the generators."""
        kind: Any = type(self.datamodule)
        if not _defines(kind, hook) and hook not in vars(self.datamodule):
            return None
        if self._seed is not None:
            seed_generators(data_seed(self._seed, self.name, edition))
        return getattr(self.datamodule, hook)(*arguments)

    def teardown(self) -> None:
        """Release the data."""
        for loader in chain(*self._loaders.values()):
            end_processes(loader)
        if self._batches is not None:
            self._batches.rest()
        for stage in sorted(self._stages):
            self.datamodule.teardown(stage)
        self._stages.clear()
        self._loaders.clear()
        self._batches = None

    @property
    def batches(self) -> Batches:
        """Return the training batches.

        Raises:
            ValueError: If there are no training examples, or too few for a batch.
        """
        self._keep_up()
        if self._batches is None:
            self._batches = _checked(batches_of(self._train_dataloader()))
        elif not self._batches.is_current():
            self._batches = _checked(batches_of(self._batches.loader))
        return self._batches

    def make_ready(self) -> None:
        """Set the worker up for training if necessary, without restoring the global generators."""
        if self._batches is None:
            self._is_unheeded = True
            try:
                self.batches  # noqa: B018
            finally:
                self._is_unheeded = False

    @property
    def draws_plainly(self) -> bool:
        """Whether its batches exist, and are drawn without user code."""
        reloads = self._trainer is not None and self._trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        return isinstance(self._batches, IndexedBatches) and self._batches.draws_plainly and not reloads

    def _keep_up(self) -> None:
        """Drop all loaders if the Trainer would reload them: ``reload_dataloaders_every_n_epochs``."""
        every = 0 if self._trainer is None else self._trainer.reload_dataloaders_every_n_epochs  # type: ignore[attr-defined]
        if not every and not self._edition:
            return
        edition = self._trainer.current_epoch // every if every and self._trainer is not None else 0
        if edition != self._edition:
            self._edition = edition
            self._batches = None
            self._loaders.clear()

    def _asked(self, loader: str, stage: Stage) -> Any:
        """Return a loader of the datamodule, after its setup."""
        with self._restored():
            self._set_up(stage)
            asked = self._call(loader, edition=self._edition)
        if starts_afresh(asked) and self._trainer is not None:
            self.datamodule.trainer = cast(pl.Trainer, TrainerOfData(self._trainer))
        return asked

    def _train_dataloader(self) -> object:
        try:
            asked = self._asked("train_dataloader", "fit")
            if asked is None:
                raise TypeError(
                    f"its {type(self.datamodule).__name__} gives no train_dataloader(); let it return a DataLoader, or "
                    "leave it out of `workers` (data for evaluation alone is FederatedDataModule(val=...))"
                )
            return unshuffled(asked, RunningStage.TRAINING) if self._overfits else asked
        except ValueError as error:
            # A shuffling DataLoader refuses an empty dataset itself, with a message without the data's name or a fix.
            if "num_samples should be a positive integer" in text_of(error):
                raise ValueError(_EMPTY) from error
            raise

    def evaluation_loaders(self, kind: EvaluationKind) -> Sequence[Iterable[Any]]:
        """Return the worker's own loaders for evaluation or prediction; empty if its datamodule defines none."""
        self._keep_up()
        if kind not in self._loaders:
            if not has_loader(self.datamodule, kind):
                return ()
            loaders = loaders_in(self._asked(f"{kind}_dataloader", stage_of(kind, self._trainer)))
            overfits = bool(loaders) and self._overfits and stage_of(kind, self._trainer) == "fit"
            self._loaders[kind] = unshuffled(loaders, RunningStage.VALIDATING) if overfits else loaders
        return self._loaders[kind]

    @property
    def _overfits(self) -> bool:
        """Whether the Trainer must see the same batches in every epoch."""
        return self._trainer is not None and self._trainer.overfit_batches > 0  # type: ignore[attr-defined]


@lru_cache(maxsize=1)  # used twice when a worker is built
def data_seed(seed: int, worker: str, edition: int = 0) -> int:
    """Return the seed of a worker's datamodule.

    Args:
        seed: The seed of the run.
        worker: The worker's name.
        edition: The number of times that its loaders were reloaded.
    """
    return derive(seed, "data", worker, edition)


def _checked(batches: Batches) -> Batches:
    if batches.num_batches == 0:
        raise ValueError(
            f"its train_dataloader gives no batch from {batches.num_rows} examples; give it a smaller batch_size or "
            "drop_last=False"
            if batches.num_rows
            else _EMPTY
        )
    return batches


_EMPTY = "it has no training examples; give it data or leave it out of `workers`"


@cache
def _defines(kind: Any, hook: str) -> bool:
    """Whether a class has a hook of its own; Lightning's does nothing."""
    return is_overridden(hook, kind, pl.LightningDataModule)


@cache  # cached, since it is used for every worker
def _transfers_plainly(kind: type[pl.LightningDataModule]) -> bool:
    """Whether a class leaves all transfer hooks as they are."""
    return not any(is_overridden(hook, kind, pl.LightningDataModule) for hook in TRANSFER_HOOKS)


def prepares(datamodule: pl.LightningDataModule) -> bool:
    """Whether a datamodule has a ``prepare_data`` of its own."""
    kind: Any = type(datamodule)
    return _defines(kind, "prepare_data") or "prepare_data" in vars(datamodule)


def has_loader(datamodule: pl.LightningDataModule, kind: EvaluationKind) -> bool:
    """Whether a datamodule defines a loader, as Lightning decides it."""
    return is_overridden(f"{kind}_dataloader", datamodule, pl.LightningDataModule)


def stage_of(kind: EvaluationKind, trainer: pl.Trainer | None) -> Stage:
    """Return the stage that Lightning passes to ``setup`` before it requests a loader."""
    if kind == "val":
        return "fit" if trainer is not None and trainer.state.fn == "fit" else "validate"
    return kind
