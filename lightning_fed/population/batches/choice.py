"""Choice of the class that draws batches from a datamodule's loader."""

from __future__ import annotations

from collections.abc import Iterable

from torch.utils.data import DataLoader

from lightning_fed._lightning import CombinedLoader
from lightning_fed.population.batches.base import Batches
from lightning_fed.population.batches.indexed import IndexedBatches, indexable
from lightning_fed.population.batches.loaded import LoadedBatches
from lightning_fed.population.combined import refuse_sequential


def batches_of(loader: object) -> Batches:
    """Return the batches of a datamodule's ``train_dataloader()``.

    Args:
        loader: A DataLoader, any other iterable of batches, or a dict or list of them (combined as Lightning does, by
            cycling the shorter ones).

    Raises:
        TypeError: If it cannot be iterated.
        ValueError: If its loaders are combined one after another.
    """
    if isinstance(loader, (dict, list, tuple)):
        loader = CombinedLoader(loader, "max_size_cycle")
    refuse_sequential(loader)
    if isinstance(loader, DataLoader):
        tensors = indexable(loader)
        return IndexedBatches(loader, tensors) if tensors is not None else LoadedBatches(loader)
    if isinstance(loader, Iterable):
        return LoadedBatches(loader)
    raise TypeError(
        f"train_dataloader() returned a {type(loader).__name__}, which is no iterable of batches; return a DataLoader, "
        "another iterable of batches, or a dict or list of them"
    )
