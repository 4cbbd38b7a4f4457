"""Batches of a dataset of tensors, by indexing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from lightning_fed.population.batches.base import Batches
from lightning_fed.population.batches.rows import Source, has_versions, rows_of, versions_of
from lightning_fed.population.generators import orders, reseed
from lightning_fed.population.lengths import length_of, num_examples

_AHEAD = 8  # the number of batches gathered at a time
_DRAW_AT_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)

_scratch = torch.Generator()
_two = torch.empty(2, dtype=torch.int64)


@final
class IndexedBatches(Batches):
    """Batches of tensors by indexing: the batches of a plain DataLoader over a TensorDataset or a Subset of one.

    Args:
        loader: The DataLoader, whose batch sampler is used.
        tensors: The examples, one per row; ``[n, ...]`` each.
    """

    def __init__(self, loader: DataLoader[Any], tensors: tuple[Tensor, ...]) -> None:
        assert loader.batch_sampler is not None
        self.loader: DataLoader[Any] = loader
        self._batch_sampler: Sampler[list[int]] | Iterable[list[int]] = loader.batch_sampler
        self.tensors = tensors
        devices = {tensor.device for tensor in tensors}
        self.device = devices.pop() if len(devices) == 1 else None
        self._carried = orders(loader)
        self.carries_generators = bool(self._carried)
        """Whether :meth:`reseed` has an effect before a :meth:`draw`."""
        # A sampler that draws all random numbers before its first row can be read to the end at once; another one may
        # draw between batches, interleaved with the training.
        self._at_once = _drawn_at_once(loader)
        dataset, order = loader.dataset, getattr(self._at_once, "sampler", None)
        takes_all = type(order) is SequentialSampler or (type(order) is RandomSampler and order._num_samples is None)
        self._follows = takes_all and getattr(order, "data_source", None) is dataset  # a pass is as long as its dataset
        self._plain = dataset if self._follows and type(dataset) is TensorDataset else None
        self.draws_plainly = self._plain is not None
        """Whether :meth:`draw` runs torch's own code only, and none of the user's."""
        self._versions = versions_of(tensors)
        self.kind = tuple([(tensor.shape[1:], tensor.dtype) for tensor in tensors])
        """A function that returns the key which rows must share to be stacked."""
        self.draws_at_once = self._at_once is not None
        self.batch_size = None if self._at_once is None else self._at_once.batch_size
        """The number of examples in every batch but a pass's last one; None if the batch sampler is the user's own."""
        self._permuted = _permuted(loader)
        self._source = None if self._plain is not None else Source(dataset)
        self.num_rows = len(tensors[0])
        if self._follows and self._at_once is not None:  # faster than the lengths of sampler and loader
            size, drops = self._at_once.batch_size, self._at_once.drop_last
            self.num_examples = self.num_rows - self.num_rows % size if drops else self.num_rows
            self.num_batches = -(-self.num_examples // size)
        else:
            self._length = len(loader) if self._at_once is None else length_of(self._at_once.sampler)
            self.num_examples = num_examples(loader)
            self.num_batches = len(loader)

    def _reseed(self, seed: int) -> None:
        reseed(self._carried, (), seed)

    def rest(self) -> None:
        pass

    def is_current(self) -> bool:
        # Called for every worker in every round. Copies of the rows rely on the versions.
        if versions_of(self.tensors) != self._versions:
            return False
        if self._plain is not None:
            return self._plain.tensors is self.tensors and self.tensors[0].size(0) == self.num_rows
        if not self._follows:
            length = len(self.loader) if self._at_once is None else length_of(self._at_once.sampler)
            if length != self._length:
                return False
        return self._source is None or self._source.is_unchanged()

    def draw(self) -> Tensor:
        """Draw the rows of one pass, batch after batch, int64 ``[n]``; only if there is a :attr:`batch_size`."""
        assert self._at_once is not None
        if self._permuted is None:
            self._draw_base_seed()
            return _order(self._at_once)
        # Faster, with the same result: the draws of the DataLoader and of the RandomSampler are repeated here.
        _, seed = _two.random_().tolist()
        _scratch.manual_seed(seed)
        order = torch.randperm(self._permuted, generator=_scratch)
        return order[: self._permuted - self._permuted % self._at_once.batch_size] if self._at_once.drop_last else order

    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        if self._at_once is None:
            self._begin_pass()
            self._draw_base_seed()
            for rows in islice(self._batch_sampler, self.num_batches):  # a sampler may be infinite
                yield self._rows(torch.tensor(rows)), len(rows)
            return
        order, size = self.draw(), self._at_once.batch_size
        for ahead in torch.split(order, _AHEAD * size) if len(order) else ():
            for batch in zip(*(torch.split(tensor, size) for tensor in self._rows(ahead)), strict=True):
                yield list(batch), len(batch[0])

    def _draw_base_seed(self) -> None:
        # A DataLoader draws a seed for its processes before its sampler draws; the same order requires the same draw.
        torch.empty((), dtype=torch.int64).random_(generator=self.loader.generator)

    def _rows(self, index: Tensor) -> list[Tensor]:
        return [tensor.index_select(0, index.to(tensor.device)) for tensor in self.tensors]


def indexable(loader: DataLoader[Any]) -> tuple[Tensor, ...] | None:
    """Return the tensors whose rows are the loader's examples, if the loader only stacks rows."""
    plain = (
        type(loader) is DataLoader
        and loader.num_workers == 0
        and loader.collate_fn is default_collate
        and isinstance(loader.batch_sampler, BatchSampler)
        and not loader.pin_memory
        and (_drawn_at_once(loader) is not None or length_of(loader) is not None)
    )
    return rows_of(loader.dataset) if plain and has_versions(loader.dataset) else None


def _drawn_at_once(loader: DataLoader[Any]) -> BatchSampler | None:
    """Return the batch sampler of a loader if it draws all random numbers before its first row; else None."""
    sampler = loader.batch_sampler
    return sampler if type(sampler) is BatchSampler and type(sampler.sampler) in _DRAW_AT_ONCE else None


def _permuted(loader: DataLoader[Any]) -> int | None:
    """Return the number of rows of a loader that only permutes them by the global generator; else None."""
    batches = loader.batch_sampler
    sampler = batches.sampler if type(batches) is BatchSampler else None
    plain = type(sampler) is RandomSampler and sampler.generator is None and loader.generator is None
    if not plain or not isinstance(sampler, RandomSampler) or sampler.replacement:
        return None
    return sampler.num_samples if sampler.num_samples == len(sampler.data_source) else None


def _order(batches: BatchSampler) -> Tensor:
    """Return the rows of one pass, batch after batch, int64 ``[n]``, if possible without a Python loop over rows."""
    sampler = batches.sampler
    if type(sampler) is SequentialSampler:
        order = torch.arange(len(sampler.data_source))
    else:
        order = torch.tensor(list(sampler), dtype=torch.int64)
    return order[: len(order) - len(order) % batches.batch_size] if batches.drop_last else order
