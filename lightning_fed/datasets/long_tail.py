"""A data set with a long tail: the number of examples decreases from class to class."""

from __future__ import annotations

from functools import partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, Subset, TensorDataset
from typing_extensions import override

from lightning_fed._lightning import is_overridden, pl
from lightning_fed.core.arguments import instance, number
from lightning_fed.core.shown import Shown
from lightning_fed.datasets._dealing import flat
from lightning_fed.datasets._sources import dataset_in, labels_of, size_of


@final
class LongTail(Shown, pl.LightningDataModule):
    """Reduces class ``i`` of a datamodule to a share of ``decay**i``, in training and evaluation.

    Classes are counted from 0 in the sorted order of the training labels. Of ``m`` examples of class ``i`` the first
    ``floor(m * decay**i)`` in the dataset's order are kept, possibly none, and the result is ordered by class. Nothing
    is drawn at random. Loaders have the source's settings: batch size, shuffling, and so on. Batch hooks of the source
    (such as ``on_after_batch_transfer``) are not called.

    Args:
        source: A datamodule with one loader for training, and one each for validation and test if it has them, whose
            examples end with their label.
        decay: The share, above 0 and at most 1; 1 keeps everything.

    Raises:
        TypeError: If ``source`` is not a datamodule, or ``decay`` no number; when loaders are asked for, if one of the
            source's is not a DataLoader of a map-style dataset, has a sampler of the user's, or gives no labels.
        ValueError: If ``decay`` is out of range; when loaders are asked for, if one of the source's has a label that
            the training data have not.

    Example::

        >>> from lightning_fed.datasets import DigitsDataModule
        >>> data = LongTail(DigitsDataModule(), decay=0.5)
        >>> data.setup("fit")
        >>> labels = torch.cat([label for _, label in data.train_dataloader()])
        >>> labels.bincount().tolist()
        [142, 73, 35, 18, 9, 4, 2, 1]

    References:
        Karimireddy, He and Jaggi, 2022, "Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing", whose code
        cuts MNIST so for training and test.
    """

    def __init__(self, source: pl.LightningDataModule, decay: float = 0.5) -> None:
        super().__init__()
        self._source = instance("source", source, pl.LightningDataModule, 'MNIST("data")')
        self._decay = number("decay", decay, above=0, most=1)
        self._classes: NDArray[Any] | None = None
        self._kept: dict[str, tuple[Dataset[Any], Dataset[Any]]] = {}
        for name in ("val_dataloader", "test_dataloader"):
            if not is_overridden(name, source):  # then Lightning must see its own methods
                vars(self)[name] = partial(getattr(pl.LightningDataModule, name), self)

    @override
    def prepare_data(self) -> None:
        """Prepare the source."""
        self._source.prepare_data()

    @override
    def setup(self, stage: str) -> None:
        """Set the source up, always for fitting too: its training data define the classes."""
        if self._classes is None and stage != "fit":
            self._source.setup("fit")
        self._source.setup(stage)
        if self._classes is None:
            dataset = dataset_in(self._source.train_dataloader(), "train_dataloader")
            self._classes = np.unique(self._labels(dataset))

    @override
    def teardown(self, stage: str) -> None:
        """Tear the source down, and release the reduced datasets."""
        self._kept.clear()
        self._source.teardown(stage)

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Return the kept training data."""
        return self._cut("train_dataloader")

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """Return the kept validation data."""
        return self._cut("val_dataloader")

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Return the kept test data."""
        return self._cut("test_dataloader")

    def _cut(self, name: str) -> DataLoader[Any]:
        loader = getattr(self._source, name)()
        dataset = dataset_in(loader, name)
        batches = loader.batch_sampler
        if type(batches) is not BatchSampler or not _goes_by_length(batches.sampler, dataset):
            raise TypeError(
                f"source: {name}() gives a DataLoader with a sampler of its own, which is made for all examples: give "
                "one with batch_size= and shuffle="
            )
        if name not in self._kept or self._kept[name][0] is not dataset:
            self._kept[name] = dataset, _some(dataset, self._first(self._labels(dataset), name))
        return DataLoader(
            self._kept[name][1],
            batch_size=batches.batch_size,
            shuffle=type(batches.sampler) is RandomSampler,
            drop_last=batches.drop_last,
            num_workers=loader.num_workers,
            collate_fn=loader.collate_fn,
            pin_memory=loader.pin_memory,
            worker_init_fn=loader.worker_init_fn,
            generator=loader.generator,
        )

    def _first(self, labels: NDArray[Any], name: str) -> list[int]:
        """Return the positions of the examples that are kept, class by class."""
        if self._classes is None:
            raise RuntimeError('LongTail is not set up: call setup("fit") first, as a Trainer does')
        unknown = np.setdiff1d(labels, self._classes)
        if len(unknown):
            raise ValueError(
                f"source: {name}() has the label {unknown[0]!s}, which no training example has, so its share is not "
                "known; leave such examples out"
            )
        of_class = [np.flatnonzero(labels == label).tolist() for label in self._classes]
        return [n for i, positions in enumerate(of_class) for n in positions[: int(len(positions) * self._decay**i)]]

    @staticmethod
    def _labels(dataset: Dataset[Any]) -> NDArray[Any]:
        return flat(labels_of(dataset, "give a datamodule whose examples are (x, label)"))


def _goes_by_length(sampler: object, dataset: Dataset[Any]) -> bool:
    """Whether a sampler takes each example once, in order or shuffled, as the new loader does."""
    if type(sampler) is RandomSampler:
        return not sampler.replacement and sampler.num_samples == size_of(dataset)
    return type(sampler) is SequentialSampler


def _some(dataset: Dataset[Any], positions: list[int]) -> Dataset[Any]:
    """Return some of the examples: of tensors as tensors, since a Subset of a Subset takes longer to index."""
    if type(dataset) is not TensorDataset:
        return Subset(dataset, positions)
    index = torch.tensor(positions, dtype=torch.int64)
    return TensorDataset(*(tensor[index.to(tensor.device)] for tensor in dataset.tensors))
