"""The population: every worker by name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, TypeAlias, final, overload

from lightning_fed.population.crowd import crowd, how_many
from lightning_fed.population.given import WorkerData

EvaluationKind: TypeAlias = Literal["val", "test", "predict"]
"""The loaders that a worker may define besides its train loader."""


class Population(Mapping[str, WorkerData]):
    """All workers, as a read-only mapping from a worker's name to the LightningDataModule that holds its data.

    A plain ``dict`` works as well, and either may hold tensors, Datasets or loaders in place of datamodules. Derive
    from this class to build workers lazily (only ``__getitem__`` builds one) when names and sizes are known in advance.
    The names are never listed, so a million workers start as fast as a thousand.

    Example::

        class Files(Population):
            def __len__(self):
                return 1_000_000

            def name(self, position):
                return f"worker_{position:06}"

            def __getitem__(self, name):
                return FileDataModule(f"/data/{name}.pt")

            def num_examples(self, name):
                return 50

            def has_loader(self, kind):
                return False
    """

    draws_nothing: ClassVar[bool] = False
    """Whether neither ``__getitem__`` nor the datamodules draw random numbers before a loader is iterated. The
    generators are then not seeded for them, which makes building a worker faster."""

    gives_datamodules: ClassVar[bool] = False
    """Whether every worker is a datamodule, which makes its own batches; else it may be tensors or a Dataset, too."""

    lies_elsewhere: ClassVar[bool] = False
    """Whether the workers' data lie on other machines, and ``__getitem__`` is not available here. Workers are then
    trained and evaluated there, by an engine that reaches them (:class:`~lightning_fed.engines.base.EngineOfNodes`)."""

    seed: int | None = None
    """The seed of a random assignment of examples to workers; None: not random. It is logged when a fit begins."""

    @property
    def most_examples(self) -> int | None:
        """An upper bound on the number of examples of a worker; None: unknown."""
        return None

    def __repr__(self) -> str:
        """Show the number of workers, and the sizes of some."""
        return f"{type(self).__name__}({crowd(self, lambda position: self.num_examples(self.name(position)))})"

    @abstractmethod
    def name(self, position: int) -> str:
        """Return the name of the worker at a position, in constant time.

        Args:
            position: From 0 to ``len(self) - 1``. Behaviour at other positions is undefined.

        Returns:
            A non-empty string: the same one at every call, and a different one at every position. Cohorts are drawn as
            positions, so a run with other names in these positions cannot be reproduced.
        """

    def __iter__(self) -> Iterator[str]:
        """Go through the names in the order of the positions."""
        return map(self.name, range(len(self)))

    def __eq__(self, other: object) -> bool:
        """Compare by identity: a Mapping would build every worker of both, and no two datamodules are equal."""
        return self is other

    def __hash__(self) -> int:
        return id(self)

    @abstractmethod
    def num_examples(self, name: str) -> int:
        """Return the number of training examples of a worker without building its datamodule."""

    @abstractmethod
    def has_loader(self, kind: EvaluationKind) -> bool:
        """Return whether the workers define a loader of this kind, without building a datamodule."""

    def num_loaders(self, kind: EvaluationKind) -> int:
        """Return the number of loaders of a kind of each worker; called only if the data lie elsewhere.

        Args:
            kind: The kind of loaders.
        """
        return int(self.has_loader(kind))


@final
class Names(Sequence[str]):
    """A lazy sequence of a population's names, which stores no name; a slice is lazy, too.

    Args:
        population: The population, which returns each name on access.
        positions: The positions of the names; None: all.

    Raises:
        TypeError: On access, if a name is not a string, or empty.
    """

    def __init__(self, population: Population, positions: range | None = None) -> None:
        self._population = population
        self._positions = range(len(population)) if positions is None else positions

    def __len__(self) -> int:
        return len(self._positions)

    def __repr__(self) -> str:
        return f"Names({how_many(len(self))})"

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Names: ...
    def __getitem__(self, index: int | slice) -> str | Names:
        if isinstance(index, slice):
            return Names(self._population, self._positions[index])
        position = self._positions[index]
        name = self._population.name(position)
        if not isinstance(name, str) or not name:
            raise TypeError(
                f"{type(self._population).__name__}.name({position}) gave {name!r}; it must give a string that is not "
                "empty"
            )
        return name
