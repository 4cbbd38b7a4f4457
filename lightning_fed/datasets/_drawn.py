"""Base of the populations whose examples are drawn from a distribution, as in the synthetic benchmarks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import TensorDataset
from typing_extensions import override

from lightning_fed.core.shown import call_of
from lightning_fed.datasets._dealing import check_count, check_share, offsets
from lightning_fed.datasets.partition import Partition, Partitioner
from lightning_fed.datasets.partitioned import PartitionedPopulation, SplitSubsetDataModule, SubsetDataModule
from lightning_fed.datasets.pictures import draw_label_counts
from lightning_fed.population import EvaluationKind, WrappedPopulation
from lightning_fed.population.crowd import crowd

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@final
@dataclass(frozen=True)
class Consecutive(Partitioner):
    """Assigns the examples to workers in order: the first examples to the first worker, and so on.

    Args:
        sizes: The number of examples of each worker, ``[workers]``.
    """

    sizes: Sequence[int]

    @property
    @override
    def needs_labels(self) -> bool:
        return False

    @override
    def __call__(self, labels: NDArray[Any]) -> Partition:
        return Partition(np.arange(len(labels)), offsets(np.asarray(self.sizes, dtype=np.int64)))


class DrawnPopulation(WrappedPopulation):
    """Draws the examples of all workers when it is first used.

    Args:
        batch_size: The number of examples in a worker's batch; training batches are shuffled.
        val_fraction: The share of each worker's examples that is held out; see :class:`PartitionedPopulation`.

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If an argument is out of range.
    """

    gives_datamodules: ClassVar[bool] = True

    def __init__(self, batch_size: int, val_fraction: float = 0.0) -> None:
        self._batch_size = check_count("batch_size", batch_size)
        self._val_fraction = check_share("val_fraction", val_fraction)

    @abstractmethod
    def draw(self) -> tuple[TensorDataset, Sequence[int]]:
        """Draw the examples, worker after worker, and return them with each worker's number of examples."""

    @cached_property
    def dealt(self) -> PartitionedPopulation:
        """All examples as one dataset, dealt out to the workers."""
        examples, sizes = self.draw()
        return PartitionedPopulation(
            examples, Consecutive(sizes), batch_size=self._batch_size, val_fraction=self._val_fraction
        )

    @property
    @override
    def inner(self) -> PartitionedPopulation:
        return self.dealt

    def __getitem__(self, name: str) -> SubsetDataModule | SplitSubsetDataModule:
        """Build the datamodule of one worker.

        Raises:
            KeyError: If there is no such worker; the message names an existing one.
        """
        return self.dealt[name]

    def plot(self) -> Figure:
        """Plot the numbers of examples by worker and label; see :meth:`PartitionedPopulation.plot`."""
        return draw_label_counts(self.dealt.label_counts(), type(self).__name__)

    @override
    def has_loader(self, kind: EvaluationKind) -> bool:
        return kind == "val" and self._val_fraction > 0

    @override
    def __repr__(self) -> str:
        """Show the arguments, and the workers' sizes once they are drawn."""
        how = call_of(self)
        if "dealt" not in vars(self):
            return how
        return f"{how}: {crowd(self, lambda position: self.num_examples(self.name(position)))}"
