"""Flipped labels, as in Karimireddy, He, Jaggi, *Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing*."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, final, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_fed._lightning import CombinedLoader, pl
from lightning_fed.core.arguments import article, settle, whole
from lightning_fed.core.shown import Shown
from lightning_fed.population import Population, WrappedPopulation
from lightning_fed.population.batches.rows import rows_of, with_part
from lightning_fed.population.given import SPLITS, Numbered
from lightning_fed.population.lengths import length_of
from lightning_fed.testing.attacks.names import check_names, refuse_unknown


@final
@dataclass(frozen=True)
class LabelFlip(Shown):
    """Replaces the labels y of attackers' training examples by ``classes - 1 - y``; attackers then train honestly.

    Labels are integers from 0 on; for two classes they may be floats. A label is the last part of an example, as in
    ``(x, y)``, unless ``label`` is set. Data for evaluation keep their labels.

    Args:
        classes: The number of classes.
        label: The place of the label in an example: a position in a tuple, or the name of a field.

    Raises:
        TypeError: If ``classes`` is not a number, or ``label`` is neither a number nor a name; when data are read, if
            they have no label.
        ValueError: If ``classes`` is below 2 or not an integer; where data are read, if a label is not a class.

    Example::

        >>> import torch
        >>> bob, alice = [(torch.zeros(3, 2), torch.tensor([0, 1, 9])) for _ in range(2)]
        >>> LabelFlip(classes=10).poison({"bob": bob, "alice": alice}, attackers=["bob"])["bob"][1]
        tensor([9, 8, 0])
    """

    classes: int
    label: int | str = -1

    def __post_init__(self) -> None:
        label = self.label if isinstance(self.label, str) and self.label else whole("label", self.label)
        settle(self, classes=whole("classes", self.classes, least=2, owner=self), label=label)

    @overload
    def poison(self, workers: dict[str, Any], attackers: Iterable[str]) -> dict[str, Any]: ...
    @overload
    def poison(self, workers: Population, attackers: Iterable[str]) -> Population: ...
    def poison(self, workers: dict[str, Any] | Population, attackers: Iterable[str]) -> dict[str, Any] | Population:
        """Return the same workers, with flipped labels at the attackers. The argument stays unchanged.

        Args:
            workers: A dict of workers' data, of any kind that a FederatedDataModule accepts, or a population, whose
                workers are still built on demand.
            attackers: The names of the attackers.

        Raises:
            TypeError: If ``workers`` is neither, or ``attackers`` no list of names.
            ValueError: If there is no attacker, no worker of such a name, or the workers' data lie on other machines.
        """
        names = check_names("attackers", attackers)
        if not isinstance(workers, (dict, Population)):
            raise TypeError(f"workers must be a dict or a Population, not {article(type(workers).__name__)}")
        refuse_unknown("attackers", names, workers)
        if isinstance(workers, Population):
            return _Poisoned(workers, self._data, names)
        poisoned = dict(workers)
        for name in names:
            try:
                poisoned[name] = self._data(workers[name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"workers[{name!r}]: {error}") from error
        return poisoned

    def _data(self, data: Any) -> Any:
        """Return a worker's data with flipped labels to train on."""
        if isinstance(data, pl.LightningDataModule):
            poisoned = copy.copy(data)
            vars(poisoned)["train_dataloader"] = partial(_flipped, self, poisoned.train_dataloader)
            return poisoned
        if isinstance(data, Mapping) and "train" in data and data.keys() <= set(SPLITS):
            return {**data, "train": self._data(data["train"])}
        if isinstance(data, (tuple, list, Mapping)):
            return self.flip(data)
        return self._dataset(data) if isinstance(data, (Dataset, Numbered)) else self.loader(data)

    def loader(self, loader: Any) -> Any:
        """Return a loader of the batches of a loader, or of several in a list or dict, with flipped labels.

        Args:
            loader: A DataLoader, or another iterable of batches.

        Raises:
            TypeError: If it is neither.
        """
        if isinstance(loader, DataLoader):
            poisoned = copy.copy(loader)
            vars(poisoned).update(dataset=self._dataset(loader.dataset), _iterator=None)
            return poisoned
        if isinstance(loader, Mapping):
            return {name: self.loader(part) for name, part in loader.items()}
        if isinstance(loader, (list, tuple)):
            return [self.loader(part) for part in loader]
        if isinstance(loader, CombinedLoader) or not isinstance(loader, Iterable):
            raise TypeError(
                f"labels of {article(type(loader).__name__)} cannot be flipped; give a DataLoader, another iterable of "
                "batches, or a list or dict of them"
            )
        return _Batches(loader, self)

    def flip(self, example: Any) -> Any:
        """Return an example, a batch, or all examples as tensors, with flipped labels.

        Args:
            example: A tuple, list or dict.

        Raises:
            TypeError: If there is no label in it, or one that is not a whole number.
            ValueError: If a label is not a class.
        """
        if isinstance(example, Mapping) and self.label in example:
            return {**example, self.label: self._flipped(example[self.label])}
        if isinstance(example, (tuple, list)) and self.label in range(-len(example), len(example)):
            position = int(self.label)
            return with_part(example, position, self._flipped(example[position]))
        raise TypeError(
            f"{article(type(example).__name__)} has no label at {self.label!r}; say where it is, as by "
            'LabelFlip(..., label="y")'
        )

    def _flipped(self, labels: Any) -> Any:
        if isinstance(labels, (list, tuple)):
            return type(labels)(self._flipped(np.asarray(labels)).tolist())
        numbers = _array_of(labels)
        # For two classes ones and zeros of any form are valid, also one number for each class.
        if numbers.dtype.kind not in ("iuf" if self.classes == 2 else "iu"):
            raise TypeError(
                f"labels of {numbers.dtype} cannot be flipped; give whole numbers from 0 to {self.classes - 1}"
            )
        if numbers.size and not 0 <= numbers.min() <= numbers.max() <= self.classes - 1:
            raise ValueError(
                f"labels lie in {numbers.min()}..{numbers.max()}, but classes={self.classes} are 0..{self.classes - 1}"
            )
        return self.classes - 1 - labels

    def _dataset(self, dataset: Any) -> Dataset[Any]:
        rows = rows_of(dataset)
        if rows is not None:  # tensors, which are batched faster
            return TensorDataset(*self.flip(rows))
        return _Stream(dataset, self) if isinstance(dataset, IterableDataset) else _Examples(dataset, self)


def _array_of(labels: Any) -> Any:
    if isinstance(labels, Tensor):  # NumPy has no bfloat16, and cannot read GPU memory
        labels = (labels.float() if labels.dtype == torch.bfloat16 else labels).cpu()
    return np.asarray(labels)


def _flipped(flip: LabelFlip, make: Callable[[], Any]) -> Any:
    """Return the loader that a datamodule makes, with flipped labels. Not a lambda, which cannot be pickled."""
    return flip.loader(make())


@final
class _Examples(Dataset[Any]):
    """A dataset with flipped labels."""

    def __init__(self, dataset: Any, flip: LabelFlip) -> None:
        self._dataset, self._flip = dataset, flip

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Any:
        return self._flip.flip(self._dataset[index])


@final
class _Stream(IterableDataset[Any]):
    """A dataset without numbers, with flipped labels."""

    def __init__(self, dataset: Iterable[Any], flip: LabelFlip) -> None:
        self._dataset, self._flip = dataset, flip

    def __iter__(self) -> Iterator[Any]:
        return map(self._flip.flip, self._dataset)

    def __len__(self) -> int:
        return _length(self._dataset)


@final
class _Batches:
    """Batches with flipped labels, of a loader that is not a DataLoader."""

    def __init__(self, loader: Iterable[Any], flip: LabelFlip) -> None:
        self._loader, self._flip = loader, flip

    def __iter__(self) -> Iterator[Any]:
        return map(self._flip.flip, self._loader)

    def __len__(self) -> int:
        return _length(self._loader)


def _length(thing: object) -> int:
    length = length_of(thing)
    if length is None:
        raise TypeError(f"{type(thing).__name__} has no length")
    return length


@final
class _Poisoned(WrappedPopulation):
    """A population in which some workers have flipped labels.

    Args:
        population: The population.
        poisoned: Returns a worker's data with flipped labels.
        attackers: The names of these workers.
    """

    def __init__(self, population: Population, poisoned: Callable[[Any], Any], attackers: tuple[str, ...]) -> None:
        if population.lies_elsewhere:
            raise ValueError("workers lie on other machines: flip labels there, where a node builds its workers")
        self._population, self._poisoned, self._attackers = population, poisoned, attackers
        self.seed = population.seed
        vars(self).update(draws_nothing=population.draws_nothing, gives_datamodules=population.gives_datamodules)

    @property
    def inner(self) -> Population:
        return self._population

    def __getitem__(self, name: str) -> Any:
        data = self._population[name]
        return self._poisoned(data) if name in self._attackers else data
