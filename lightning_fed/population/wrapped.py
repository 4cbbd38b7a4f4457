"""Base of the populations that wrap another one."""

from __future__ import annotations

from abc import abstractmethod

from typing_extensions import override

from lightning_fed.population.base import EvaluationKind, Population


class WrappedPopulation(Population):
    """Base of the populations that delegate to another one; subclasses define only the data, ``__getitem__``."""

    @property
    @abstractmethod
    def inner(self) -> Population:
        """The wrapped population."""

    @property
    @override
    def most_examples(self) -> int | None:
        return self.inner.most_examples

    def __len__(self) -> int:
        """Count the workers."""
        return len(self.inner)

    @override
    def __contains__(self, name: object) -> bool:
        return name in self.inner

    @override
    def name(self, position: int) -> str:
        return self.inner.name(position)

    @override
    def num_examples(self, name: str) -> int:
        return self.inner.num_examples(name)

    @override
    def has_loader(self, kind: EvaluationKind) -> bool:
        return self.inner.has_loader(kind)

    @override
    def num_loaders(self, kind: EvaluationKind) -> int:
        return self.inner.num_loaders(kind)
