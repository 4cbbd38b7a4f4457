"""Arguments of a FederatedDataModule that name workers, or numbers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, final

from torch.utils.data import DataLoader, Dataset

from lightning_fed._lightning import pl, refuse_foreign
from lightning_fed.core.arguments import article, whole
from lightning_fed.population import EvaluationKind, Names, Population


def names_of(workers: object) -> Sequence[str]:
    """Return the names of the workers.

    Args:
        workers: Every worker's datamodule by name.

    Raises:
        TypeError: If it is no mapping, or a name or a value of a dict is of a wrong type.
        ValueError: If there is no worker.
    """
    if not isinstance(workers, Mapping):
        raise TypeError(
            f"workers must be a mapping from names to LightningDataModules, such as {{'bob': BobData()}}, not a "
            f"{type(workers).__name__}"
        )
    if not len(workers) and not isinstance(workers, Nobody):
        raise ValueError("workers is empty; federated learning needs at least one worker")
    if isinstance(workers, Population):
        return Names(workers)  # too many to go through: each is checked when it is given out
    names = tuple(cast(Mapping[str, Any], workers))
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"workers: the name {name!r} must be a string that is not empty")
    if isinstance(workers, dict):
        for name in names:
            refuse_other(workers[name], f"workers[{name!r}]")
    return names


@final
class Nobody(Population):
    """No workers: an evaluation on central data alone has none."""

    def __len__(self) -> int:
        return 0

    def name(self, position: int) -> str:
        """Raise an error: there are no names."""
        raise IndexError(position)

    def __getitem__(self, name: str) -> pl.LightningDataModule:
        raise KeyError(name)

    def num_examples(self, name: str) -> int:
        """Raise an error: there are no workers."""
        raise KeyError(name)

    def has_loader(self, kind: EvaluationKind) -> bool:
        """Return False."""
        return False


def refuse_other(thing: object, argument: str) -> None:
    """Refuse what is no datamodule; of a loader the fix is another one.

    Args:
        thing: What the user gave.
        argument: The argument's name, for the message.

    Raises:
        TypeError: If it is none.
    """
    if isinstance(thing, (DataLoader, Dataset)):
        of = "loader.dataset" if isinstance(thing, DataLoader) else "dataset"
        raise TypeError(
            f"{argument} is a {type(thing).__name__}, which does not say what it is for; give a LightningDataModule, "
            f"such as LightningDataModule.from_datasets(train_dataset={of}, batch_size=32)"
        )
    refuse_foreign(thing, "LightningDataModule", argument)


def refuse_unwrapped(trainer: pl.Trainer | None) -> None:
    """Refuse the module of a Trainer that was given the workers' data, and not a FederatedModule.

    Args:
        trainer: The Trainer; None: there is none, and nothing to refuse.

    Raises:
        TypeError: If there is one.
    """
    if trainer is not None:
        name = type(trainer.lightning_module).__name__
        raise TypeError(
            f"a FederatedDataModule needs a FederatedModule, and was given {article(name)}: wrap it, as in "
            "trainer.fit(FederatedModule(net), data), or give it the datamodule of one worker"
        )


def within(argument: str, value: object, population: int) -> int | None:
    """Return a number of workers, or None.

    Args:
        argument: The argument's name, for the message.
        value: What the user gave.
        population: The number of all workers.

    Raises:
        TypeError: If it is no int.
        ValueError: If it is out of range.
    """
    says = f" must lie between 1 and the population of {population} workers"
    return None if value is None else whole(argument, value, least=1, most=population, says=says)
