"""Tables as datamodules, whose columns a partitioner can use."""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any

from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset
from typing_extensions import override

from lightning_fed._lightning import pl
from lightning_fed.core.arguments import article, flag, listed, nearest, text
from lightning_fed.core.shown import Shown
from lightning_fed.datasets._dealing import check_count


class TableDataModule(Shown, pl.LightningDataModule, ABC):
    """A datamodule over a table; see its two kinds, :class:`FrameDataModule` and :class:`HuggingFaceDataModule`.

    Args:
        label: The column that partitioners use as label.
        has_val: Whether there are examples to validate and test on.
        batch_size: The number of examples in a batch.
        shuffle: Whether training batches are shuffled.
    """

    def __init__(self, label: str, has_val: bool, batch_size: int, shuffle: bool) -> None:
        super().__init__()
        self.label = label
        self._batch_size = check_count("batch_size", batch_size)
        self._shuffle = flag("shuffle", shuffle)
        if not has_val:  # then Lightning must see its own methods
            for name in ("val_dataloader", "test_dataloader"):
                vars(self)[name] = partial(getattr(pl.LightningDataModule, name), self)

    @abstractmethod
    def column(self, name: str) -> NDArray[Any]:
        """Return a column of the training table, for a partitioner: ``[n]``.

        Args:
            name: The column's name.

        Raises:
            ValueError: If there is no such column, or values in it are missing.
        """

    @abstractmethod
    def examples(self, split: str) -> Dataset[Any]:
        """Return the examples of ``"train"`` or ``"val"``."""

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        """Return the examples to train on."""
        return DataLoader(self.examples("train"), batch_size=self._batch_size, shuffle=self._shuffle)

    @override
    def val_dataloader(self) -> DataLoader[Any]:
        """Return the examples to validate on, in order."""
        return DataLoader(self.examples("val"), batch_size=self._batch_size)

    @override
    def test_dataloader(self) -> DataLoader[Any]:
        """Return the examples to validate on, in order."""
        return self.val_dataloader()


def names(argument: str, value: object) -> tuple[str, ...]:
    """Return a list of names of columns."""
    given = listed(argument, value, what="names, such as ['age', 'bmi']")
    if not given:
        raise ValueError(f"{argument} is empty: give at least one name")
    return tuple(text(f"{argument}[{i}]", name) for i, name in enumerate(given))


def refuse_unknown(name: str, known: Sequence[object], where: str) -> None:
    """Refuse a column that does not exist, and name the nearest one."""
    names = [str(column) for column in known]
    shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
    raise ValueError(f"{where}: there is no column {name!r}{nearest(name, names)}; there are {shown}")


def refuse_missing(name: str, split: str, missing: int, row: int) -> None:
    """Refuse a column with missing values."""
    raise ValueError(
        f"column {name!r} of {split} has {missing} missing values, the first in row {row}: fill them, or drop such "
        "rows, as by frame.dropna()"
    )


def named(thing: object) -> str:
    """Return the name of an object's type, with its article."""
    return "None" if thing is None else article(type(thing).__name__)


def imported(package: str, name: str) -> Any:
    """Return an object of a package if the program has imported the package; else None."""
    return getattr(sys.modules.get(package), name, None)


def import_from(package: str, name: str) -> Any:
    """Return an object of a package that is not a dependency of lightning_fed.

    Raises:
        ImportError: If the package is not installed, or a folder of that name shadows it.
    """
    try:
        return getattr(importlib.import_module(package), name)
    except (ImportError, AttributeError) as error:
        raise ImportError(f"this needs {package} ({error}): pip install {package}", name=package) from error
