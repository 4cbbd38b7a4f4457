"""One dataset as a population: each worker holds a share, built on demand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Subset
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import flag, instance, whole
from lightning_fed.core.shown import Shown, text_of
from lightning_fed.datasets._dealing import check_count, check_share
from lightning_fed.datasets._sources import Source, dataset_of, labels_of, size_of
from lightning_fed.datasets.partition import Partition, Partitioner
from lightning_fed.datasets.pictures import LabelCounts, count_labels, draw_label_counts
from lightning_fed.datasets.tables import TableDataModule
from lightning_fed.population import EvaluationKind, Population, examples_of
from lightning_fed.population.crowd import how_many, of_sizes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@dataclass(frozen=True)
class LoaderSettings:
    """Settings by which the loaders of every worker are made; see :class:`PartitionedPopulation`."""

    batch_size: int
    shuffle: bool
    drop_last: bool
    num_workers: int
    collate_fn: Callable[[list[Any]], Any] | None

    def train(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        """Make the loader of training examples."""
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            num_workers=self.num_workers,
            collate_fn=self.collate_fn,
        )

    def val(self, dataset: Dataset[Any]) -> DataLoader[Any]:
        """Make the loader of held-out examples: all of them, in order."""
        return DataLoader(dataset, batch_size=self.batch_size, num_workers=self.num_workers, collate_fn=self.collate_fn)


@final
class SubsetDataModule(Shown, pl.LightningDataModule):
    """A worker's share of a shared dataset, all of it for training.

    It does not define ``val_dataloader``, so Lightning detects that there are no validation data.

    Args:
        train_set: The share.
        settings: The settings of the loader.
    """

    def __init__(self, train_set: Dataset[Any], settings: LoaderSettings) -> None:
        super().__init__()
        self.train_set: Any = train_set
        self._settings = settings

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Return the share."""
        return self._settings.train(self.train_set)

    def changed(self, change: Callable[[Subset[Any]], Dataset[Any]]) -> SubsetDataModule:
        """Return the same worker with other examples in place of its own."""
        return SubsetDataModule(change(self.train_set), self._settings)


@final
class SplitSubsetDataModule(Shown, pl.LightningDataModule):
    """A worker's share of a shared dataset, some of it held out.

    Args:
        train_set: The examples to train on.
        val_set: The held-out examples.
        settings: The settings of the loaders.
    """

    def __init__(self, train_set: Dataset[Any], val_set: Dataset[Any], settings: LoaderSettings) -> None:
        super().__init__()
        self.train_set: Any = train_set
        self.val_set: Any = val_set
        self._settings = settings

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Return the part to train on."""
        return self._settings.train(self.train_set)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """Return the held-out part, in order."""
        return self._settings.val(self.val_set)

    def changed(self, change: Callable[[Subset[Any]], Dataset[Any]]) -> SplitSubsetDataModule:
        """Return the same worker with other examples in place of its own."""
        return SplitSubsetDataModule(change(self.train_set), change(self.val_set), self._settings)


@final
class PartitionedPopulation(Population):
    """A dataset dealt out to workers: a lazy mapping from a worker's name to its share as a datamodule.

    At its first use, the population prepares and sets up the source and draws the partition, once. A worker's
    datamodule is built at each access, and costs a list of its examples. Two populations are equal only if they are the
    same object.

    Args:
        source: A datamodule, whose ``train_dataloader().dataset`` is dealt out, a map-style dataset, or tensors or
            arrays such as ``(x, y)``. In multi-process training every process prepares the source, so prepare a
            download beforehand.
        partition: The partitioner.
        labels: The label of every example, ``[n]``, or the name of its column if the source is a table, such as a
            ``FrameDataModule``. ``None``: the table's label; of other sources the last tensor of a ``TensorDataset``
            (or of a ``Subset`` of one), else ``example[-1]`` of every example, read once, if the partitioner needs it.
        batch_size: The number of examples in a worker's batch.
        val_fraction: The share of each worker's examples that is held out, rounded down; at least one example
            remains for training. The choice is random, but a function of the worker's position and size. A worker
            without held-out examples is a :class:`SubsetDataModule`, else a :class:`SplitSubsetDataModule`.
        shuffle: Whether training batches are shuffled.
        drop_last: Whether an incomplete last training batch is dropped; a worker smaller than a batch then has none.
        num_workers: The number of processes of each loader.
        collate_fn: Makes a batch from a list of examples, for instance by padding; None: torch's default.

    Raises:
        ValueError: If an argument is out of range, or, at the first use, if labels, partition and dataset do not match.
        TypeError: If ``source`` is neither a datamodule nor a dataset, or another argument has the wrong type; at the
            first use, if the dataset is not map-style or has no labels.

    Example::

        >>> from lightning_fed.datasets import IID, ToyDataModule
        >>> population = PartitionedPopulation(ToyDataModule(), IID(workers=2))
        >>> list(population), population.num_examples("worker_1")
        (['worker_0', 'worker_1'], 2)
        >>> len(population["worker_1"].train_set)
        2
    """

    draws_nothing: ClassVar[bool] = True
    gives_datamodules: ClassVar[bool] = True

    def __init__(
        self,
        source: Source,
        partition: Partitioner,
        labels: str | NDArray[Any] | None = None,
        batch_size: int = 32,
        val_fraction: float = 0.0,
        shuffle: bool = True,
        drop_last: bool = False,
        num_workers: int = 0,
        collate_fn: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self._source = source if isinstance(source, pl.LightningDataModule) else examples_of(source, "source")
        self._partition = instance("partition", partition, Partitioner, "IID(workers=10)")
        self.seed = partition.seed
        if labels is not None and not isinstance(labels, str) and np.ndim(labels) == 0:
            raise TypeError(f"labels={labels!r} must be an array with the label of every example, or a column's name")
        self._labels = labels
        if collate_fn is not None and not callable(collate_fn):
            raise TypeError(f"collate_fn={collate_fn!r} must be a function that makes a batch of a list of examples")
        self._val_fraction = check_share("val_fraction", val_fraction)
        self._settings = LoaderSettings(
            batch_size=check_count("batch_size", batch_size),
            shuffle=flag("shuffle", shuffle),
            drop_last=flag("drop_last", drop_last),
            num_workers=whole("num_workers", num_workers, least=0, says=": give at least 0, and a whole number"),
            collate_fn=collate_fn,
        )
        self._dealt: tuple[Dataset[Any], Partition] | None = None

    @property
    def dataset(self) -> Dataset[Any]:
        """The dataset that all workers share."""
        return self._deal()[0]

    @property
    def partition(self) -> Partition:
        """The partition, which assigns each example of the dataset to a worker."""
        return self._deal()[1]

    def label_counts(self) -> LabelCounts:
        """Count the examples of each label at each worker, including held-out examples.

        The labels are those of the partition. If the partitioner required none and the dataset has no readable labels,
        or if there are more than 100 different labels, only sizes are counted.
        """
        dataset, partition = self._deal()
        try:
            labels: NDArray[Any] | None = self._labels_for(dataset, None)
        except TypeError:
            labels = None
        return count_labels(partition, labels)

    def plot(self) -> Figure:
        """Plot the numbers of examples by worker and label; see :func:`draw_label_counts`.

        Returns:
            A matplotlib figure; a notebook shows it, and ``savefig`` writes it to a file.

        Raises:
            ImportError: If matplotlib is not installed; it comes with the extra ``examples``.
        """
        title = repr(self._partition)  # a dataclass's, with its arguments, which may be long lists
        return draw_label_counts(self.label_counts(), title if len(title) < 80 else type(self._partition).__name__)

    @override
    def num_examples(self, name: str) -> int:
        """Return a worker's number of training examples, without held-out ones; no worker is built."""
        partition = self.partition
        position = partition.position(name)
        size = int(partition.offsets[position + 1] - partition.offsets[position])
        return size - self._held_out(size)

    @override
    def has_loader(self, kind: EvaluationKind) -> bool:
        """Return whether the workers hold out validation data."""
        return kind == "val" and self._val_fraction > 0

    def __getitem__(self, name: str) -> SubsetDataModule | SplitSubsetDataModule:
        """Build the datamodule of one worker.

        Raises:
            KeyError: If there is no such worker; the message names an existing one.
        """
        dataset, partition = self._deal()
        position = partition.position(name)
        indices = partition[position]
        held_out = self._held_out(len(indices))
        if not held_out:
            return SubsetDataModule(Subset(dataset, indices.tolist()), self._settings)
        is_val = np.zeros(len(indices), dtype=np.bool_)
        is_val[np.random.default_rng(position).choice(len(indices), held_out, replace=False)] = True
        train, val = (Subset(dataset, part.tolist()) for part in (indices[~is_val], indices[is_val]))
        return SplitSubsetDataModule(train, val, self._settings)

    @override
    def name(self, position: int) -> str:
        """Return the name of the worker at a position of the partition.

        Raises:
            IndexError: If ``position`` is not from 0 to ``len(self) - 1``.
        """
        return self.partition.name(position)

    def __len__(self) -> int:
        """Count the workers."""
        return len(self.partition)

    @override
    def __contains__(self, name: object) -> bool:
        """Return whether a worker has this name, without building it."""
        if not isinstance(name, str):
            return False
        try:
            self.partition.position(name)
        except KeyError:
            return False
        return True

    @override
    def __repr__(self) -> str:
        """Show the partitioner, and the workers' sizes once the dataset is dealt out."""
        how = f"{text_of(self._source)}, {self._partition!r}"
        if self._dealt is None:
            return f"{type(self).__name__}({how}, not dealt out yet)"
        sizes = self.partition.sizes()
        training = (sizes - (self._val_fraction * sizes).astype(np.int64)).tolist()
        return f"{type(self).__name__}({how_many(len(self))} with {of_sizes(training)}; {how})"

    def _held_out(self, size: int) -> int:
        return int(self._val_fraction * size)  # a float below 1 times a size never rounds up to the size

    def _deal(self) -> tuple[Dataset[Any], Partition]:
        if self._dealt is None:
            dataset = dataset_of(self._source)
            needs = self._labels is not None or self._partition.needs_labels
            labels = (
                self._labels_for(dataset, self._partition.column) if needs else np.broadcast_to(0, size_of(dataset))
            )
            if len(labels) != size_of(dataset):
                raise ValueError(f"labels: {len(labels)} for {size_of(dataset)} examples; give one label per example")
            partition = self._partition(labels)
            if len(partition.indices) != len(labels):
                raise ValueError(
                    f"partition deals out {len(partition.indices)} examples of {len(labels)}; deal out all"
                )
            self._dealt = dataset, partition
        return self._dealt

    def _labels_for(self, dataset: Dataset[Any], column: str | None) -> NDArray[Any]:
        """Return the label of every example, or the values of the column by which a partitioner goes."""
        if column is None and self._labels is not None and not isinstance(self._labels, str):
            return self._labels
        if column is None and isinstance(self._labels, str):
            column = self._labels
        if isinstance(self._source, TableDataModule):
            return self._source.column(column or self._source.label)
        if column is not None:
            raise TypeError(
                f"labels or ids name the column {column!r}, and source is no table: give a FrameDataModule or a "
                "HuggingFaceDataModule as source, or the values of the column, an array"
            )
        return labels_of(dataset)
