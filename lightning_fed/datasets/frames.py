"""pandas DataFrames, and CSV and Parquet files, as datamodules."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset
from typing_extensions import override

from lightning_fed.core.arguments import text
from lightning_fed.datasets.tables import (
    TableDataModule,
    import_from,
    imported,
    named,
    names,
    refuse_missing,
    refuse_unknown,
)

if not TYPE_CHECKING:
    # At runtime the types that YAML can name, by which the command line reads a config, without optional packages.
    Frame: TypeAlias = str | Path
else:
    import pandas as pd

    Frame: TypeAlias = pd.DataFrame | str | Path

SUFFIXES = (".csv", ".csv.gz", ".csv.zip", ".parquet")


@final
class FrameDataModule(TableDataModule):
    """A pandas DataFrame, or a CSV or Parquet file: some columns are features, one or several are the label.

    Batches are ``[x, y]``. Features are floats of torch's default dtype, ``[n, features]``. The label is int64 ``[n]``
    if its column holds integers, booleans or ``classes``, and float ``[n]`` if it holds real numbers. Several columns,
    also a list of one, are floats ``[n, labels]``, just as ``frame[["y"]]`` has two dimensions and ``frame["y"]`` one.
    Requires pandas.

    Args:
        train: The examples to train on: a DataFrame, or the path of a ``.csv`` or ``.parquet`` file.
        features: The names of the columns, or patterns such as ``"pixel_*"``, in the order of the features. A pattern
            excludes the label.
        label: The column to predict; a list for several columns, or for a label with its own dimension.
        val: The examples to validate and test on, in the same form; None: no such examples.
        classes: The names of the classes, in the order of their numbers, if the label's column holds names.
        batch_size: The number of examples in a batch.
        shuffle: Whether training batches are shuffled.

    Raises:
        TypeError: If an argument has the wrong type, or when a column is read, if it does not hold numbers.
        ValueError: If the batch size is out of range or the file is of another kind; or, when a table is read, if there
            is no such column, or values in one are missing.

    Example::

        source = FrameDataModule("patients.csv", features=["age", "bmi"], label="ill")
        population = PartitionedPopulation(source, NaturalIds("hospital"))
    """

    def __init__(
        self,
        train: Frame,
        features: Sequence[str],
        label: str | Sequence[str],
        val: Frame | None = None,
        classes: Sequence[str] | None = None,
        batch_size: int = 32,
        shuffle: bool = True,
    ) -> None:
        self._features = names("features", features)
        self._labels = label if isinstance(label, str) else names("label", label)
        super().__init__(
            text("label", self._labels if isinstance(self._labels, str) else self._labels[0]),
            val is not None,
            batch_size,
            shuffle,
        )
        self._classes = None if classes is None else names("classes", classes)
        self._given = {"train": _checked_frame("train", train)}
        if val is not None:
            self._given["val"] = _checked_frame("val", val)
        self._frames: dict[str, Any] = {}
        self._examples: dict[str, TensorDataset] = {}

    @override
    def examples(self, split: str) -> TensorDataset:
        if split not in self._examples:
            frame = self._frame(split)
            self._examples[split] = TensorDataset(self._x(frame, split), self._y(frame, split))
        return self._examples[split]

    @override
    def column(self, name: str) -> NDArray[Any]:
        found: NDArray[Any] = _present(self._frame("train"), name, "train").to_numpy()
        return found

    @override
    def teardown(self, stage: str) -> None:
        """Release the tables that were read from files."""
        self._frames.clear()
        self._examples.clear()

    def _frame(self, split: str) -> Any:
        if split not in self._frames:
            given = self._given[split]
            if isinstance(given, (str, Path)):
                read = "read_parquet" if str(given).endswith(".parquet") else "read_csv"
                given = import_from("pandas", read)(given)
            self._frames[split] = given
        return self._frames[split]

    def _x(self, frame: Any, split: str) -> Tensor:
        labels = [self._labels] if isinstance(self._labels, str) else self._labels
        chosen: dict[str, None] = {}
        for feature in self._features:
            if feature in labels:
                raise ValueError(f"features: {feature!r} is the label, which must not be a feature as well")
            found = (
                [feature]
                if feature in frame.columns
                else [name for name in map(str, frame.columns) if fnmatchcase(name, feature) and name not in labels]
            )
            if not found:
                refuse_unknown(feature, list(frame.columns), f"features ({split})")
            chosen.update(dict.fromkeys(found))
        return _floats(frame, list(chosen), split)

    def _y(self, frame: Any, split: str) -> Tensor:
        if not isinstance(self._labels, str):
            return _floats(frame, self._labels, split)
        column = _present(frame, self._labels, split)
        if self._classes is not None:
            numbers = {name: number for number, name in enumerate(self._classes)}
            others = sorted({str(value) for value in column} - numbers.keys())
            if others:
                raise ValueError(
                    f"classes: column {self._labels!r} of {split} holds {', '.join(map(repr, others[:5]))}, which "
                    "classes= does not name"
                )
            return torch.tensor([numbers[str(value)] for value in column], dtype=torch.int64)
        if not _is_numeric(column):
            known = sorted({str(value) for value in column})
            shown = repr(known) if len(known) <= 20 else f"[{', '.join(map(repr, known[:5]))}, ...]"
            raise TypeError(
                f"label: column {self._labels!r} of {split} holds {_example(column)} and no numbers: give the names of "
                f"the classes in the order of their numbers, classes={shown}"
            )
        if import_from("pandas", "api").types.is_float_dtype(column.dtype):
            return _floats(frame, [self._labels], split)[:, 0]
        return torch.as_tensor(column.to_numpy(np.int64, copy=True))


def _checked_frame(argument: str, given: object) -> Any:
    if isinstance(given, (str, Path)):
        if not str(given).endswith(SUFFIXES):
            raise ValueError(f"{argument}={str(given)!r} must be the path of a .csv or .parquet file, or a DataFrame")
        return given
    kind = imported("pandas", "DataFrame")
    if kind is None or not isinstance(given, kind):
        raise TypeError(f"{argument} must be a pandas DataFrame or the path of a file, not {named(given)}")
    return given


def _present(frame: Any, name: str, split: str) -> Any:
    """Return a column, checked to exist exactly once and to have no missing values."""
    if name not in frame.columns:
        refuse_unknown(name, list(frame.columns), split)
    column = frame[name]
    if column.ndim != 1:
        raise ValueError(f"{split} has several columns {name!r}: give them names of their own")
    missing = column.isna().to_numpy()
    if missing.any():
        refuse_missing(name, split, int(missing.sum()), int(missing.argmax()))
    return column


def _floats(frame: Any, names: Sequence[str], split: str) -> Tensor:
    columns = []
    for name in names:
        column = _present(frame, name, split)
        if not _is_numeric(column):
            raise TypeError(
                f"column {name!r} of {split} holds {_example(column)} and no numbers: encode it, as by "
                "pandas.get_dummies(frame), or leave it out"
            )
        values = column.to_numpy(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(f"column {name!r} of {split} holds a value that is infinite: replace it, or drop its row")
        columns.append(values)
    return torch.as_tensor(np.stack(columns, axis=1)).to(torch.get_default_dtype())


def _is_numeric(column: Any) -> bool:
    types = import_from("pandas", "api").types
    return bool(types.is_numeric_dtype(column.dtype) and not types.is_complex_dtype(column.dtype))


def _example(column: Any) -> str:
    return repr(column.iloc[0]) if len(column) else f"values of {column.dtype}"
