"""Workers that have been built, and no more of them than asked for."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, TypeAlias, final

from lightning_fed._lightning import is_overridden, pl, refuse_foreign
from lightning_fed.hooks import TRANSFER_HOOKS
from lightning_fed.population.base import EvaluationKind, Population
from lightning_fed.population.batches import Batches, batches_of

Stage: TypeAlias = Literal["fit", "validate", "test", "predict"]


@final
class Worker:
    """One participant: its name and the datamodule that holds its data, set up when first needed.

    Args:
        name: The worker's name.
        datamodule: Its data.
        trainer: The Trainer that the datamodule is to see.
    """

    def __init__(self, name: str, datamodule: pl.LightningDataModule, trainer: pl.Trainer | None) -> None:
        refuse_foreign(datamodule, "LightningDataModule", f"workers[{name!r}]")
        self.name = name
        self.datamodule = datamodule
        self.datamodule.trainer = trainer
        kind: Any = type(datamodule)  # mypy takes no class for hashable
        patched = any(hook in vars(datamodule) for hook in TRANSFER_HOOKS)
        self.transfers_plainly = _transfers_plainly(kind) and not patched
        """Whether its batches need no more than to be moved to the device."""
        self._stages: set[str] = set()
        self._batches: Batches | None = None
        self._loaders: dict[str, Iterable[Any]] = {}

    def setup(self, stage: Stage) -> None:
        """Prepare the data and set it up for a stage, once."""
        if not self._stages:
            self.datamodule.prepare_data()
        if stage not in self._stages:
            self.datamodule.setup(stage)
            self._stages.add(stage)

    def teardown(self) -> None:
        """Let go of the data."""
        for stage in sorted(self._stages):
            self.datamodule.teardown(stage)
        self._stages.clear()
        self._loaders.clear()
        self._batches = None

    @property
    def batches(self) -> Batches:
        """The training batches.

        Raises:
            ValueError: If there are no training examples, or too few for a batch.
        """
        if self._batches is None:
            self.setup("fit")
            batches = batches_of(self._train_dataloader())
            if batches.num_examples == 0:
                raise ValueError(_EMPTY)
            if batches.num_batches == 0:
                raise ValueError(
                    f"its train_dataloader gives no batch from {batches.num_examples} examples; give it a smaller "
                    "batch_size or drop_last=False"
                )
            self._batches = batches
        return self._batches

    def _train_dataloader(self) -> object:
        try:
            return self.datamodule.train_dataloader()
        except ValueError as error:
            # A shuffling DataLoader refuses an empty dataset itself, in words that name neither the data nor a fix.
            if "num_samples should be a positive integer" in str(error):
                raise ValueError(_EMPTY) from error
            raise

    def evaluation_loader(self, kind: EvaluationKind) -> Iterable[Any] | None:
        """The worker's own loader for evaluation or prediction, or None if its datamodule defines none.

        Raises:
            TypeError: If the datamodule gives several.
        """
        if kind not in self._loaders:
            if not has_loader(self.datamodule, kind):
                return None
            self.setup(stage_of(kind, self.datamodule.trainer))
            loader = getattr(self.datamodule, f"{kind}_dataloader")()
            if isinstance(loader, (list, tuple, dict)):
                raise TypeError(f"worker {self.name!r}: {kind}_dataloader() must return one loader, not several")
            self._loaders[kind] = loader
        return self._loaders[kind]


_EMPTY = "it has no training examples; give it data or leave it out of `workers`"


@cache
def _transfers_plainly(kind: type[pl.LightningDataModule]) -> bool:
    """Whether a class leaves all transfer hooks as they are; asked of every worker, it took a fifth of building one."""
    return not any(is_overridden(hook, kind, pl.LightningDataModule) for hook in TRANSFER_HOOKS)


def has_loader(datamodule: pl.LightningDataModule, kind: EvaluationKind) -> bool:
    """Whether a datamodule defines a loader, as Lightning decides it."""
    return is_overridden(f"{kind}_dataloader", datamodule, pl.LightningDataModule)


def stage_of(kind: EvaluationKind, trainer: pl.Trainer | None) -> Stage:
    """The stage that Lightning would pass to ``setup`` before asking for a loader."""
    if kind == "val":
        return "fit" if trainer is not None and trainer.state.fn == "fit" else "validate"
    return kind


@final
class WorkerPool:
    """Builds workers when they are first asked for and keeps the ``capacity`` most recently used.

    Args:
        population: Every worker's datamodule by name; lazy or not.
        capacity: How many built workers to keep.
    """

    def __init__(self, population: Mapping[str, pl.LightningDataModule], capacity: int) -> None:
        self._population = population
        self._capacity = capacity
        self._built: OrderedDict[str, Worker] = OrderedDict()
        self.trainer: pl.Trainer | None = None

    def __getitem__(self, name: str) -> Worker:
        if name in self._built:
            self._built.move_to_end(name)
            return self._built[name]
        worker = self._built[name] = Worker(name, self._population[name], self.trainer)
        if len(self._built) > self._capacity:
            _, oldest = self._built.popitem(last=False)
            oldest.teardown()
        return worker

    def num_examples(self, name: str) -> int:
        """Give a worker's number of training examples, building it only if its population cannot tell."""
        if isinstance(self._population, Population):
            return self._population.num_examples(name)
        return self[name].batches.num_examples or 0

    def clear(self) -> None:
        """Let go of all built workers."""
        for worker in self._built.values():
            worker.teardown()
        self._built.clear()
