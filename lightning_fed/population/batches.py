"""A worker's training batches.

A DataLoader fetches row by row and stacks the rows again, which for small tensors costs more than the training itself
(50 rows of 784 numbers: 0.3 ms, against 0.06 ms here). A dataset that already is a tensor is therefore batched by
indexing, with the loader's own batch sampler and exactly the batches that the loader would give.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import count, islice
from operator import attrgetter
from typing import Any, final

import torch
from torch import Tensor
from torch._utils import ExceptionWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data._utils.fetch import _MapDatasetFetcher

from lightning_fed._lightning import CombinedLoader
from lightning_fed.population.combined import batch_in, refuse_sequential, set_epoch
from lightning_fed.population.generators import orders, others_of, reseed
from lightning_fed.population.lengths import gives_items, length_of, num_batches, num_examples
from lightning_fed.population.loader_processes import end_pass, end_processes
from lightning_fed.wire import LocalTraining

_AHEAD = 8  # batches gathered at a time
_DRAW_AT_ONCE = (RandomSampler, SequentialSampler, SubsetRandomSampler, WeightedRandomSampler)


class Batches(ABC):
    """A worker's training batches, one pass at a time."""

    num_examples: int | None
    """The number of examples that a pass gives, or None if only a pass can tell."""
    num_batches: int | None
    """The number of batches in a pass, or None if only a pass can tell."""
    loader: Iterable[Any]
    """What the worker's datamodule gave."""
    num_rows: int | None
    """The number of examples in the loader's dataset, of which a pass may give fewer or more; None if there is none."""
    device: torch.device | None = None
    """Where all tensors of all batches lie, if that is known."""
    draws_at_once: bool = False
    """Whether all random numbers of a pass are drawn before its first batch."""
    gives_items: bool = False
    """Whether each batch is one item of the dataset as a function of the user's made it: a whole graph, for example."""

    _epoch = 0

    def reseed(self, seed: int, epoch: int = 0) -> None:
        """Begin a round: set all that the loader carries with it, so that its order depends on nothing that ran before.

        Args:
            seed: For the generators that it carries. Processes that load are ended; the next ones start from seeds of
                the global generator.
            epoch: For ``set_epoch`` of its samplers; it goes up by one with every pass.
        """
        self.rest()
        self._reseed(seed)
        self._epoch = epoch

    def first_epoch(self, cohort: int, local: LocalTraining) -> int:
        """The number of a round's first pass, if the passes of all rounds are counted through.

        Args:
            cohort: The number of the round's cohort.
            local: How long a worker trains in a round.
        """
        if local.steps is None:
            return cohort * local.epochs
        return cohort * (-(-local.steps // self.num_batches) if self.num_batches else 1)

    @abstractmethod
    def _reseed(self, seed: int) -> None:
        """Set the generators that the loader carries with it."""

    @abstractmethod
    def rest(self) -> None:
        """End the processes that load, until the next pass."""

    @abstractmethod
    def is_current(self) -> bool:
        """Whether all that was noted about the loader still holds: its dataset may have grown."""

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        """Return one pass of batches, each with its number of examples (None: it has to be inferred)."""

    def _begin_pass(self) -> None:
        set_epoch(self.loader, self._epoch)
        self._epoch += 1


def batches_of(loader: object) -> Batches:
    """Choose how to draw batches from what a datamodule's ``train_dataloader()`` returned.

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
        tensors = _indexable(loader)
        return IndexedBatches(loader, tensors) if tensors is not None else LoadedBatches(loader)
    if isinstance(loader, Iterable):
        return LoadedBatches(loader)
    raise TypeError(
        f"train_dataloader() returned a {type(loader).__name__}, which is no iterable of batches; return a DataLoader, "
        "another iterable of batches, or a dict or list of them"
    )


def _indexable(loader: DataLoader[Any]) -> tuple[Tensor, ...] | None:
    """The tensors whose rows are the loader's examples, if that is all the loader does."""
    plain = (
        type(loader) is DataLoader
        and loader.num_workers == 0
        and loader.collate_fn is default_collate
        and isinstance(loader.batch_sampler, BatchSampler)
        and not loader.pin_memory
        and (_drawn_at_once(loader) is not None or length_of(loader) is not None)
    )
    return _rows(loader.dataset) if plain else None


def _drawn_at_once(loader: DataLoader[Any]) -> BatchSampler | None:
    """The batch sampler of a loader if it draws all its randomness before its first row; else None."""
    sampler = loader.batch_sampler
    return sampler if type(sampler) is BatchSampler and type(sampler.sampler) in _DRAW_AT_ONCE else None


def examples_per_pass(batches: Sequence[tuple[int, int]], num_batches: int | None, is_whole: bool) -> float:
    """The number of examples that a pass gives, by those that were seen.

    Passes that were seen to their end tell; if the only one was cut short, it counts as far as it went, or where the
    number of batches is known, as if the rest were like it.

    Args:
        batches: Each batch's number in its pass and its number of examples.
        num_batches: The number of batches in a pass, if that is known.
        is_whole: Whether the last pass was seen to its end.

    >>> examples_per_pass([(0, 4), (1, 2), (0, 4)], num_batches=2, is_whole=False)
    6.0
    >>> examples_per_pass([(0, 4)], num_batches=3, is_whole=False), examples_per_pass([(0, 4)], None, is_whole=False)
    (12.0, 4.0)
    """
    passes: list[list[int]] = []
    for index, size in batches:
        if index == 0:
            passes.append([])
        passes[-1].append(size)
    if not passes:
        return 0.0
    whole = passes if is_whole or len(passes[-1]) >= (num_batches or math.inf) else passes[:-1]
    if whole:
        return sum(map(sum, whole)) / len(whole)
    return sum(passes[0]) * (1.0 if num_batches is None else num_batches / len(passes[0]))


def _rows(dataset: Dataset[Any]) -> tuple[Tensor, ...] | None:
    if type(dataset) is TensorDataset:
        return None if any(t.is_inference() for t in dataset.tensors) else dataset.tensors  # those have no version
    if type(dataset) is Subset:
        tensors = _rows(dataset.dataset)
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return None if tensors is None else tuple(t[index.to(t.device)] for t in tensors)
    return None


class _Source:
    """All by which to see whether :func:`_rows` would give other rows of a dataset."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._subsets: list[tuple[Subset[Any], Dataset[Any], Sequence[int], int]] = []
        while isinstance(dataset, Subset):
            self._subsets.append((dataset, dataset.dataset, dataset.indices, len(dataset.indices)))
            dataset = dataset.dataset
        self._root = dataset if isinstance(dataset, TensorDataset) else None
        self._tensors = () if self._root is None else self._root.tensors
        # Rows of a subset are copies: if the tensors are written to, they are out of date.
        self._versions = _versions(self._tensors)

    def is_unchanged(self) -> bool:
        for subset, dataset, indices, length in self._subsets:
            if subset.dataset is not dataset or subset.indices is not indices or len(indices) != length:
                return False
        if self._root is None:
            return True
        return self._root.tensors is self._tensors and _versions(self._tensors) == self._versions


_version = attrgetter("_version")


def _versions(tensors: tuple[Tensor, ...]) -> list[int]:
    """A tensor's version goes up whenever it is written to."""
    return list(map(_version, tensors))


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
        self._carried = orders(loader)
        self.carries_generators = bool(self._carried)
        """Whether :meth:`reseed` has something to do before a :meth:`draw`."""
        # A sampler that draws all its randomness before its first row can be read to the end at once; another may draw
        # between batches, in turn with the training itself.
        self._at_once = _drawn_at_once(loader)
        dataset, order = loader.dataset, getattr(self._at_once, "sampler", None)
        takes_all = type(order) is SequentialSampler or (type(order) is RandomSampler and order._num_samples is None)
        self._follows = takes_all and getattr(order, "data_source", None) is dataset  # a pass is as long as its dataset
        self._plain = dataset if self._follows and type(dataset) is TensorDataset else None
        self.draws_plainly = self._plain is not None
        """Whether :meth:`draw` runs torch's own code only, and none of the user's."""
        self._versions = _versions(tensors)
        self.kind = tuple([(tensor.shape[1:], tensor.dtype) for tensor in tensors])
        """Return the key that rows must have in common with other rows to be stacked."""
        self.draws_at_once = self._at_once is not None
        self.batch_size = None if self._at_once is None else self._at_once.batch_size
        """The number of examples in every batch but a pass's last one; None if the batch sampler is the user's own."""
        self._permuted = _permuted(loader)
        self._source = None if self._plain is not None else _Source(dataset)
        self.num_rows = len(tensors[0])
        if self._follows and self._at_once is not None:  # told without asking sampler and loader, 3 µs of 25 a worker
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
        # Asked for every worker in every round. Whoever keeps a copy of the rows relies on the versions.
        if _versions(self.tensors) != self._versions:
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
        # The same in a third of the time: the draws of the DataLoader and of the RandomSampler, and what comes of them.
        _, seed = _two.random_().tolist()
        _scratch.manual_seed(seed)
        order = torch.randperm(self._permuted, generator=_scratch)
        return order[: self._permuted - self._permuted % self._at_once.batch_size] if self._at_once.drop_last else order

    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        if self._at_once is None:
            self._begin_pass()
            self._draw_base_seed()
            for rows in islice(self._batch_sampler, self.num_batches):  # a sampler may well have no end
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
        self._carried = [generator for part in loaders for generator in orders(part)]
        self._others = [generator for part in parts for generator in others_of(part)]
        rows = [length_of(part.dataset) for part in loaders]
        self.num_rows = rows[0] if len(parts) == 1 and rows else None
        self.gives_items = any(map(gives_items, loaders))
        self.num_examples = num_examples(loader)
        self.num_batches = num_batches(loader)

    def _reseed(self, seed: int) -> None:
        reseed(self._carried, self._others, seed)

    def rest(self) -> None:
        end_processes(self.loader)

    def is_current(self) -> bool:
        return self.num_batches == num_batches(self.loader) and self.num_examples == num_examples(self.loader)

    def __iter__(self) -> Iterator[tuple[Any, int | None]]:
        self._begin_pass()
        iterator = iter(self.loader)
        # A pass is as long as the loader says, as a Trainer has it: over a stream it may well have no end.
        for _ in count() if self.num_batches is None else range(self.num_batches):
            try:
                item = next(iterator)
            except StopIteration as end:
                _refuse_end_by_an_example(end)
                return
            except Exception:
                end_pass(iterator)
                self.rest()
                raise
            yield batch_in(self.loader, item), None


def _refuse_end_by_an_example(end: StopIteration) -> None:
    """Refuse the end of a pass that a dataset's own code has brought about, which looks like any other.

    Raises:
        RuntimeError: If the exception comes from where a DataLoader fetches examples by their index.
    """
    at = end.__traceback__
    while at is not None:
        if at.tb_frame.f_code in _FETCHING:
            raise RuntimeError("its dataset raised StopIteration for an example, which must not end the pass") from end
        at = at.tb_next


_FETCHING = (_MapDatasetFetcher.fetch.__code__, ExceptionWrapper.reraise.__code__)
"""In this process, and for what was fetched in another."""
