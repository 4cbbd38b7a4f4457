"""The population: every worker by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, TypeAlias

from lightning_fed._lightning import pl

EvaluationKind: TypeAlias = Literal["val", "test", "predict"]
"""The loaders that a worker may define besides its train loader."""


class Population(Mapping[str, pl.LightningDataModule]):
    """All workers, as a read-only mapping from a worker's name to the LightningDataModule that holds its data.

    A plain ``dict`` of datamodules does as well. Derive from this class when the datamodules should be built lazily
    (``__getitem__`` builds one, ``__iter__`` and ``__len__`` must not) and the sizes are known beforehand.
    """

    @abstractmethod
    def num_examples(self, name: str) -> int:
        """Give the number of training examples of a worker without building its datamodule."""

    @abstractmethod
    def has_loader(self, kind: EvaluationKind) -> bool:
        """Say whether the workers define a loader of this kind, without building a datamodule."""
