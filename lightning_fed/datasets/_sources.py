"""Sources of a partition: their datasets, and the labels in them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_fed._lightning import pl

if not TYPE_CHECKING:
    # At runtime the types that YAML can name, which the command line uses to read a config.
    Source: TypeAlias = pl.LightningDataModule | Dataset[Any]
else:
    Source: TypeAlias = pl.LightningDataModule | Iterable[Any] | Dataset[Any]


def dataset_of(source: pl.LightningDataModule | Dataset[Any]) -> Dataset[Any]:
    """Return the dataset of a source."""
    if isinstance(source, pl.LightningDataModule):
        source.prepare_data()
        source.setup("fit")
        return dataset_in(source.train_dataloader(), "train_dataloader")
    return _map_style(source)


def dataset_in(loader: object, name: str) -> Dataset[Any]:
    """Return the dataset of a loader of a source.

    Args:
        loader: The loader.
        name: The name of the method that returned the loader.
    """
    if not isinstance(loader, DataLoader):
        raise TypeError(f"source: {name}() must give one DataLoader, not {type(loader).__name__}")
    return _map_style(loader.dataset)


def _map_style(dataset: Dataset[Any]) -> Dataset[Any]:
    if isinstance(dataset, IterableDataset):
        raise TypeError(f"source: {type(dataset).__name__} has no examples by number; give a map-style dataset")
    return dataset


def size_of(dataset: Dataset[Any]) -> int:
    """Count the examples of a map-style dataset."""
    return len(dataset)  # type: ignore[arg-type]  # torch leaves __len__ to the map-style dataset


def labels_of(dataset: Dataset[Any], fix: str = "give labels=") -> NDArray[Any]:
    """Return the label of every example, if the dataset provides labels: ``[n, ...]``.

    Args:
        dataset: The dataset.
        fix: The fix for a dataset without labels, for the message.
    """
    if isinstance(dataset, TensorDataset):
        return dataset.tensors[-1].detach().cpu().numpy()
    if isinstance(dataset, Subset) and isinstance(dataset.dataset, TensorDataset | Subset):
        labels: NDArray[Any] = labels_of(dataset.dataset, fix)[np.asarray(dataset.indices)]
        return labels
    try:
        return np.stack([np.asarray(dataset[index][-1]) for index in range(size_of(dataset))])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise TypeError(f"labels: {type(dataset).__name__} has no example[-1] that serves as one: {fix}") from error
