"""Arguments of a FederatedDataModule that name workers, or numbers of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast, final

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import article, whole
from lightning_fed.population import EvaluationKind, Names, Population, WorkerData, datamodule_of


def names_of(workers: object) -> Sequence[str]:
    """Return the names of the workers.

    Args:
        workers: Every worker's data by name.

    Raises:
        TypeError: If it is no mapping, or a name is of a wrong type.
        ValueError: If there is no worker.
    """
    if not isinstance(workers, Mapping):
        raise TypeError(
            "workers must be a mapping from names to data, such as {'bob': (x, y), 'alice': AliceData()}, not "
            f"{article(type(workers).__name__)}{_fix(workers)}"
        )
    if not len(workers) and not isinstance(workers, Nobody):
        raise ValueError("workers is empty; federated learning needs at least one worker")
    if isinstance(workers, Population):
        return Names(workers)  # too many to go through: each is checked when it is given out
    names = tuple(cast(Mapping[str, Any], workers))
    for name in names:
        if not isinstance(name, str) or not name:
            raise TypeError(f"workers: the name {name!r} must be a string that is not empty")
    return names


def as_datamodules(workers: Mapping[str, WorkerData], batch_size: int) -> Mapping[str, pl.LightningDataModule]:
    """Return the workers of a dict as datamodules; another mapping, which may be lazy, as it is.

    Args:
        workers: Every worker's data by name.
        batch_size: The number of examples in a batch of data that come without batches.

    Raises:
        TypeError: If something is nobody's data.
        ValueError: If data are empty, or do not fit together.
    """
    if isinstance(workers, dict):
        made = {name: datamodule_of(data, f"workers[{name!r}]", batch_size) for name, data in workers.items()}
        if any(made[name] is not workers[name] for name in made):
            return made
    return cast(Mapping[str, pl.LightningDataModule], workers)  # a lazy one's are turned when they are looked up


def _fix(workers: object) -> str:
    deal_out = ": deal {} out by lightning_fed.datasets.PartitionedPopulation({}, IID(workers=10))"
    if isinstance(workers, (list, tuple)):
        if workers and all(isinstance(item, (Tensor, np.ndarray)) for item in workers):
            return deal_out.format("them", "(x, y)")
        return ": name them, as in {f'worker_{i}': data for i, data in enumerate(workers)}"
    if isinstance(workers, (Dataset, Tensor, np.ndarray)):
        return deal_out.format("it", "dataset")
    return ""


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
