"""The numbers of examples and batches of a loader, if known without a pass over it."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from torch.utils.data import BatchSampler, DataLoader, IterableDataset, default_collate

from lightning_fed._lightning import CombinedLoader


def num_examples(loader: object, batches: int | None = None) -> int | None:
    """Return the number of examples in a pass over a loader, if known without a pass.

    Args:
        loader: The loader.
        batches: The number of batches, if the pass is limited.
    """
    if isinstance(loader, CombinedLoader):
        return _num_combined(loader)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    sampler = loader.batch_sampler
    # Without a batch size, an item of the dataset is already a batch; and the batches of a user's batch sampler are
    # unknown before the pass.
    if not isinstance(sampler, BatchSampler) or type(sampler).__iter__ is not BatchSampler.__iter__:
        return None
    if gives_items(loader):
        return None
    drawn = length_of(sampler.sampler)
    if drawn is None:
        return None
    given = drawn - drawn % sampler.batch_size if sampler.drop_last else drawn
    return given if batches is None else min(given, batches * sampler.batch_size)


def gives_items(loader: DataLoader[Any]) -> bool:
    """Whether a batch is an item made by a user's function, such as a graph, in which nodes may count as examples."""
    batches = loader.batch_sampler
    is_one = isinstance(batches, BatchSampler) and batches.batch_size == 1
    return is_one and loader.collate_fn is not default_collate


def _num_combined(loader: CombinedLoader) -> int | None:
    """Return the number of examples of the largest part; a part that is repeated counts once."""
    is_cut = loader._mode == "min_size"
    batches = num_batches(loader) if is_cut else None
    if is_cut and batches is None:
        return None
    sizes = [num_examples(part, batches) for part in loader.flattened]
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes):
        return None
    return max(known)


def length_of(thing: object) -> int | None:
    """Return ``len(thing)``, or None if there is none."""
    if not isinstance(thing, Sized):
        return None
    try:
        return len(thing)
    except (TypeError, NotImplementedError):  # a loader over an iterable dataset has a __len__ that refuses
        return None


def num_batches(loader: object) -> int | None:
    """Return the number of batches in a pass, if known; a CombinedLoader itself reports it only while iterated."""
    if not isinstance(loader, CombinedLoader):
        return length_of(loader)
    lengths = [length_of(part) for part in loader.flattened]
    known = [length for length in lengths if length is not None]
    if not known or len(known) < len(lengths):
        return None
    return min(known) if loader._mode == "min_size" else max(known)
