"""The loaders of an evaluation as a Trainer goes through them: each batch comes with its worker's name.

User code that finds one of our loaders, on the Trainer or by asking the datamodule, is to get its own batches from it.
So to torch's trees, by which Lightning takes apart what a datamodule gives, such a loader is a node: the Trainer finds
in it what names the batches, and puts the loader itself back where ``trainer.val_dataloaders`` shows it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, final

from torch.utils import _pytree as pytree

from lightning_fed.server.loaders import EvaluationBatch


class EvaluationLoader(ABC):
    """A loader of an evaluation. To iterate gives the user's own batches."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        pytree.register_pytree_node(cls, lambda loader: ([NamedBatches(loader)], None), _loader_in)

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of batches.

        Raises:
            TypeError: If it cannot be told.
        """

    @abstractmethod
    def named(self) -> Iterator[EvaluationBatch]:
        """Yield the batches for the Trainer, with their workers' names."""

    @abstractmethod
    def __iter__(self) -> Iterator[Any]:
        """Yield the user's own batches; with their workers' names if there is no Trainer to use :meth:`named`."""


@final
class NamedBatches:
    """Yields the batches of a loader with their workers' names; all other attributes are the loader's.

    Args:
        loader: The loader.
    """

    def __init__(self, loader: EvaluationLoader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[EvaluationBatch]:
        return self.loader.named()

    def __getattr__(self, name: str) -> Any:
        if name == "loader" or name.startswith("__"):  # it is being copied
            raise AttributeError(name)
        return getattr(self.loader, name)


def _loader_in(parts: Iterable[Any], _: None) -> EvaluationLoader:
    (named,) = parts
    loader: EvaluationLoader = named.loader
    return loader
