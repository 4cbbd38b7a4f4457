"""A worker's training batches.

A DataLoader fetches row by row and stacks the rows again, which for small tensors costs more than the training itself
(50 rows of 784 numbers: 0.3 ms, against 0.06 ms here). A dataset that already is a tensor is therefore batched by
indexing, with the loader's own batch sampler and exactly the batches that the loader would give.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sized
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from lightning_fed._lightning import CombinedLoader

_AHEAD = 8  # batches gathered at a time
_DRAW_AT_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


class Batches(ABC):
    """A worker's training batches, one pass at a time."""

    num_examples: int | None
    """The number of examples in a pass, or None if only a pass can tell."""
    num_batches: int | None
    """The number of batches in a pass, or None if only a pass can tell."""
    loader: Iterable[Any]
    """What the worker's datamodule gave."""
    device: torch.device | None = None
    """Where all tensors of all batches lie, if that is known."""

    @abstractmethod
    def reseed(self, seed: int) -> None:
        """Set the generators that the loader carries with it, so that its order depends on nothing that ran before."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        """Give one pass of batches, each with its number of examples (None: it has to be inferred)."""


def batches_of(loader: object) -> Batches:
    """Choose how to draw batches from what a datamodule's ``train_dataloader()`` returned.

    Args:
        loader: A DataLoader, any other iterable of batches, or a dict or list of them (combined as Lightning does, by
            cycling the shorter ones).

    Raises:
        TypeError: If it cannot be iterated.
    """
    if isinstance(loader, (dict, list, tuple)):
        loader = CombinedLoader(loader, "max_size_cycle")
    if isinstance(loader, DataLoader):
        tensors = _indexable(loader)
        return IndexedBatches(loader, tensors) if tensors is not None else LoadedBatches(loader)
    if isinstance(loader, Iterable):
        return LoadedBatches(loader)
    raise TypeError(f"train_dataloader() returned a {type(loader).__name__}, which is no iterable of batches")


def _indexable(loader: DataLoader[Any]) -> tuple[Tensor, ...] | None:
    """The tensors whose rows are the loader's examples, if that is all the loader does."""
    plain = (
        type(loader) is DataLoader
        and loader.num_workers == 0
        and loader.collate_fn is default_collate
        and isinstance(loader.batch_sampler, BatchSampler)
        and not loader.pin_memory
    )
    return _rows(loader.dataset) if plain else None


def _rows(dataset: Dataset[Any]) -> tuple[Tensor, ...] | None:
    if type(dataset) is TensorDataset:
        return dataset.tensors
    if type(dataset) is Subset:
        tensors = _rows(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return None if tensors is None else tuple(t[index.to(t.device)] for t in tensors)
    return None


_scratch = torch.Generator()
_two = torch.empty(2, dtype=torch.int64)


def _permuted(loader: DataLoader[Any]) -> int | None:
    """The number of rows that a loader gives in an order drawn from the global generator, if that is all it does."""
    batches = loader.batch_sampler
    sampler = batches.sampler if type(batches) is BatchSampler else None
    plain = type(sampler) is RandomSampler and sampler.generator is None and loader.generator is None
    if not plain or not isinstance(sampler, RandomSampler) or sampler.replacement:
        return None
    return sampler.num_samples if sampler.num_samples == len(sampler.data_source) else None


def _order(batches: BatchSampler) -> Tensor:
    """The rows of one pass, batch after batch, int64 ``[n]``, if possible without a Python number for every row."""
    sampler = batches.sampler
    if type(sampler) is SequentialSampler:
        order = torch.arange(len(sampler.data_source))
    else:
        order = torch.tensor(list(sampler), dtype=torch.int64)
    return order[: len(order) - len(order) % batches.batch_size] if batches.drop_last else order


def _reseed(generators: Iterable[object], seed: int) -> None:
    for generator in generators:
        if isinstance(generator, torch.Generator):
            generator.manual_seed(seed)


def _generators(loader: DataLoader[Any]) -> list[object]:
    samplers: list[object] = [loader.sampler]
    if isinstance(loader.batch_sampler, BatchSampler):
        samplers.append(loader.batch_sampler.sampler)
    # Every sampler of torch keeps its generator under this name; one without needs no reseeding.
    return [loader.generator, *(getattr(sampler, "generator", None) for sampler in samplers)]


@final
class IndexedBatches(Batches):
    """Batches of tensors by indexing: the batches of a plain DataLoader over a TensorDataset or a Subset of one.

    Args:
        loader: The DataLoader whose batch sampler decides.
        tensors: The examples, one per row; ``[n, ...]`` each.
    """

    def __init__(self, loader: DataLoader[Any], tensors: tuple[Tensor, ...]) -> None:
        assert loader.batch_sampler is not None
        self.loader: DataLoader[Any] = loader
        self._batch_sampler: Sampler[list[int]] | Iterable[list[int]] = loader.batch_sampler
        self.tensors = tensors
        devices = {tensor.device for tensor in tensors}
        self.device = devices.pop() if len(devices) == 1 else None
        self._carried = [g for g in _generators(loader) if isinstance(g, torch.Generator)]
        # A sampler that draws all its randomness before its first row can be read to the end at once; another may draw
        # between batches, in turn with the training itself.
        sampler = loader.batch_sampler
        self._at_once = sampler if type(sampler) is BatchSampler and type(sampler.sampler) in _DRAW_AT_ONCE else None
        self.batch_size = None if self._at_once is None else self._at_once.batch_size
        """The number of examples in every batch but a pass's last one; None if the batch sampler is the user's own."""
        self._permuted = _permuted(loader)
        self.num_examples = _num_examples(loader)
        self.num_batches = len(loader)

    def reseed(self, seed: int) -> None:
        _reseed(self._carried, seed)

    def draw(self) -> Tensor:
        """Draw the rows of one pass, batch after batch, int64 ``[n]``; only if there is a :attr:`batch_size`."""
        assert self._at_once is not None
        if self._permuted is None:
            self._draw_base_seed()
            return _order(self._at_once)
        # The same in a third of the time: the draws of the DataLoader and of the RandomSampler, and what comes of them.
        _, seed = _two.random_().tolist()
        _scratch.manual_seed(seed)
        order = torch.randperm(self._permuted, generator=_scratch)
        return order[: self._permuted - self._permuted % self._at_once.batch_size] if self._at_once.drop_last else order

    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        if self._at_once is None:
            self._draw_base_seed()
            for rows in self._batch_sampler:
                yield self._rows(torch.tensor(rows)), len(rows)
            return
        order, size = self.draw(), self._at_once.batch_size
        for ahead in torch.split(order, _AHEAD * size) if len(order) else ():
            for batch in zip(*(torch.split(tensor, size) for tensor in self._rows(ahead)), strict=True):
                yield list(batch), len(batch[0])

    def _draw_base_seed(self) -> None:
        # A DataLoader draws a seed for its processes before its sampler draws; so must we, for the same order.
        torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)

    def _rows(self, index: Tensor) -> list[Tensor]:
        return [tensor.index_select(0, index.to(tensor.device)) for tensor in self.tensors]


@final
class LoadedBatches(Batches):
    """Batches of any loader, as it gives them.

    Args:
        loader: A DataLoader, a CombinedLoader or any other iterable of batches.
    """

    def __init__(self, loader: Iterable[Any]) -> None:
        self.loader = loader
        parts = loader.flattened if isinstance(loader, CombinedLoader) else [loader]
        loaders = [part for part in parts if isinstance(part, DataLoader)]
        self._carried = [generator for part in loaders for generator in _generators(part)]
        sizes = [_num_examples(part) for part in loaders]
        known = [size for size in sizes if size is not None]
        self.num_examples = max(known) if known and len(known) == len(parts) else None
        self.num_batches = _num_batches(loader)

    def reseed(self, seed: int) -> None:
        _reseed(self._carried, seed)

    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        for item in self.loader:
            # A CombinedLoader gives (batch, batch_idx, dataloader_idx).
            yield (item[0] if isinstance(self.loader, CombinedLoader) else item), None


def _num_examples(loader: DataLoader[Any]) -> int | None:
    if isinstance(loader.dataset, IterableDataset):
        return None
    sampler = loader.sampler
    own_batches = loader.batch_sampler is not None and type(loader.batch_sampler) is not BatchSampler
    source: object = loader.dataset if own_batches else sampler
    return _length(source)


def _length(thing: object) -> int | None:
    if not isinstance(thing, Sized):
        return None
    try:
        return len(thing)
    except (TypeError, NotImplementedError):  # a loader over an iterable dataset has a __len__ that refuses
        return None


def _num_batches(loader: object) -> int | None:
    """The number of batches in a pass; a CombinedLoader tells only once it is iterated."""
    if not isinstance(loader, CombinedLoader):
        return _length(loader)
    lengths = [_length(part) for part in loader.flattened]
    known = [length for length in lengths if length is not None]
    return max(known) if len(known) == len(lengths) else None
