"""Examples of a worker, and Poisson samples of them, for DP-SGD."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence, Sized
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
)

from lightning_fed.privacy import Noise
from lightning_fed.wire import RecordPrivacy


@final
class PoissonSamples:
    """Samples of a worker's examples, in which each example is by a coin of its own.

    An example is a row of the loader's dataset that the loader's sampler names; other rows are never read. Each is
    collated by itself, so that a batch holds one example, and nothing can mix two.

    Args:
        loader: The loader that the worker's datamodule returned.
        settings: Says how probable each example is.
        noise: Draws the coins. Whom they choose must be a secret: amplification by sampling is worth no more than it.
        keys: The keys of the random stream of the coins.

    Raises:
        ValueError: If the loader does not give examples of a fixed set.
    """

    def __init__(self, loader: object, settings: RecordPrivacy, noise: Noise, keys: tuple[int | str, ...]) -> None:
        self._rows = rows_of(loader)
        assert isinstance(loader, DataLoader)
        self._loader: DataLoader[Any] = loader
        self._settings = settings
        self._noise = noise
        self._keys = keys
        self._drawn = 0

    def __len__(self) -> int:
        """The number of the worker's examples."""
        return len(self._rows)

    def one_pass(self) -> Iterator[list[Any]]:
        """Draw as many samples as a pass has, one after another: lists of batches of one example; they may be empty."""
        loader = self._loader
        for _ in range(self._settings.steps_per_pass):
            coins = self._noise.uniform(len(self._rows), *self._keys, "batch", self._drawn)
            self._drawn += 1
            drawn = [self._rows[i] for i in (coins < self._settings.sampling_rate).nonzero().flatten().tolist()]
            yield list(DataLoader(loader.dataset, batch_sampler=[[row] for row in drawn], collate_fn=loader.collate_fn))


def rows_of(loader: object) -> Sequence[Any]:
    """Return the keys of the examples that a loader gives, each once.

    Args:
        loader: The value that a datamodule's ``train_dataloader()`` returned.

    Raises:
        ValueError: If it does not give each example of a fixed set once in a pass; the message names the fix.

    >>> rows_of(DataLoader(["a", "b", "c"], sampler=torch.utils.data.SubsetRandomSampler([2])))
    [2]
    """
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        given = "one over an IterableDataset" if isinstance(loader, DataLoader) else f"a {type(loader).__name__}"
        raise ValueError(
            "RecordDP draws examples one by one, so its train_dataloader must give a DataLoader over a dataset with "
            f"__getitem__(), not {given}"
        )
    if type(loader).__iter__ is not DataLoader.__iter__:
        raise ValueError(
            f"RecordDP draws examples in place of the loader, so {type(loader).__name__}.__iter__() would not be used; "
            "give a torch.utils.data.DataLoader"
        )
    if loader.batch_sampler is None:
        raise ValueError(
            "RecordDP cannot tell examples apart in a DataLoader(batch_size=None), whose dataset makes batches of its "
            "own; give it a dataset of single examples and a batch_size="
        )
    sampler: Any = loader.batch_sampler
    in_batches = type(sampler).__iter__ is not BatchSampler.__iter__
    if not in_batches:
        sampler = sampler.sampler
    kind = type(sampler).__name__
    if type(sampler) is SequentialSampler:
        rows: Sequence[Any] = range(len(sampler.data_source))
    elif isinstance(sampler, (RandomSampler, WeightedRandomSampler)) and sampler.replacement:
        raise ValueError(_refusal(kind, "draws with replacement"))
    elif isinstance(sampler, RandomSampler) and sampler._num_samples is not None:
        raise ValueError(_refusal(kind, f"draws num_samples={sampler._num_samples} of its examples in a pass"))
    elif type(sampler) is RandomSampler:
        rows = range(len(sampler.data_source))
    else:
        with torch.random.fork_rng(devices=[]):
            first, second = (_named(sampler, in_batches, epoch, kind) for epoch in range(2))
        if set(first) != set(second):
            raise ValueError(_refusal(kind, "names other examples from pass to pass"))
        rows = first
    if not len(rows):
        raise ValueError(f"its train_dataloader gave no batch: its {kind} names no example")
    _refuse_repeated(loader.dataset, rows)
    return rows


def _refuse_repeated(dataset: Any, rows: Sequence[Any]) -> None:
    """Refuse rows of which two are the same example: of a ``Subset``, or counted from the end."""
    keys = rows
    while True:
        if not isinstance(keys, range):
            length = len(dataset) if isinstance(dataset, Sized) else 0
            keys = [key + length if isinstance(key, int) and key < 0 else key for key in keys]
            if len(set(keys)) < len(keys):
                twice = next(key for key, count in Counter(keys).items() if count > 1)
                raise ValueError(
                    f"its train_dataloader names example {twice!r} of its {type(dataset).__name__} more than once, and "
                    "RecordDP would hide it no better than one of two; give every example once"
                )
        if not isinstance(dataset, Subset):
            return
        keys = [int(dataset.indices[key]) for key in keys]
        dataset = dataset.dataset


def _named(sampler: Any, in_batches: bool, epoch: int, kind: str) -> list[Hashable]:
    set_epoch = getattr(sampler, "set_epoch", None)  # which Lightning calls before a pass of a sampler that has one
    if callable(set_epoch):
        set_epoch(epoch)
    named: dict[Hashable, None] = {}
    for row in _flat(sampler) if in_batches else sampler:
        key = row.tolist() if isinstance(row, Tensor) else row
        if not isinstance(key, Hashable):
            raise ValueError(_refusal(kind, f"names several examples at once ({key!r})"))
        if key in named:  # at once: it may be a sampler without an end
            raise ValueError(_refusal(kind, f"names example {key!r} more than once in a pass"))
        named[key] = None
    return list(named)


def _flat(batches: Iterable[Iterable[Hashable]]) -> Iterator[Hashable]:
    for batch in batches:
        yield from batch


def _refusal(kind: str, fault: str) -> str:
    return (
        f"its train_dataloader's {kind} {fault}, but RecordDP draws each of a fixed set of examples with the same "
        "probability, sampling_rate; leave the sampler out and give the DataLoader a torch.utils.data.Subset of the "
        "worker's examples"
    )
