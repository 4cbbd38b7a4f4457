"""Datasets of Hugging Face's ``datasets`` as datamodules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, cast, final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset
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
    HuggingFace: TypeAlias = str | Path
else:
    import datasets

    HuggingFace: TypeAlias = datasets.Dataset | str | Path


@final
class HuggingFaceDataModule(TableDataModule):
    """A dataset of Hugging Face's ``datasets``; batches are dicts by the names of its columns.

    A dataset without a format is set to the torch format; one with a format or a transform (``set_transform``) keeps
    it. Requires datasets.

    Args:
        train: The examples to train on: a ``datasets.Dataset``, or a name or path. A folder written by
            ``save_to_disk`` is read by ``load_from_disk``, all else by ``load_dataset``.
        label: The column that partitioners use as label.
        columns: The columns of a batch; None: all of them.
        val: The examples to validate and test on: a dataset, or the name of a split, such as ``"test"``, if ``train``
            is a name or path; None: no such examples.
        split: The split to train on, if ``train`` is a name or path.
        batch_size: The number of examples in a batch.
        shuffle: Whether training batches are shuffled.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the batch size is out of range, or when a dataset is read, if there is no such column, or values
            in the label's are missing.

    Example::

        source = HuggingFaceDataModule("ylecun/mnist", label="label")
        population = PartitionedPopulation(source, Dirichlet(workers=100, alpha=0.1))
    """

    def __init__(
        self,
        train: HuggingFace,
        label: str = "label",
        columns: Sequence[str] | None = None,
        val: HuggingFace | None = None,
        split: str = "train",
        batch_size: int = 32,
        shuffle: bool = True,
    ) -> None:
        super().__init__(text("label", label), val is not None, batch_size, shuffle)
        self._columns = None if columns is None else names("columns", columns)
        self._given = {"train": _checked_dataset("train", train)}
        if val is not None:
            self._given["val"] = _checked_dataset("val", val)
        self._split = text("split", split)
        if isinstance(self._given.get("val"), str) and not isinstance(self._given["train"], str):
            raise TypeError(f"val={val!r} names a split, and train is no name of a dataset: give a datasets.Dataset")
        self._loaded: dict[str, Any] = {}

    @override
    def prepare_data(self) -> None:
        """Download or read the datasets that are given by name."""
        for split in self._given:
            self._load(split)

    @override
    def examples(self, split: str) -> Dataset[Any]:
        dataset = self._load(split)
        if self._columns is not None:
            for name in self._columns:
                if name not in dataset.column_names:
                    refuse_unknown(name, dataset.column_names, f"columns ({split})")
            dataset = dataset.select_columns(list(self._columns))
        has_format = dataset.format["type"] is not None
        return cast("Dataset[Any]", dataset if has_format else dataset.with_format("torch"))

    @override
    def column(self, name: str) -> NDArray[Any]:
        dataset = self._load("train")
        if name not in dataset.column_names:
            refuse_unknown(name, dataset.column_names, "train")
        values = list(dataset.with_format(None)[name])
        missing = sum(value is None for value in values)
        if missing:
            refuse_missing(name, "train", missing, values.index(None))
        return np.asarray(values)

    def _load(self, split: str) -> Any:
        if split not in self._loaded:
            given, train = self._given[split], self._given["train"]
            if isinstance(given, str):
                load_from_disk = import_from("datasets", "load_from_disk")
                wanted = self._split if split == "train" else given
                if split == "train" and (Path(train) / "dataset_info.json").is_file():
                    given = load_from_disk(train)
                elif (Path(train) / "dataset_dict.json").is_file():
                    given = load_from_disk(train)[wanted]
                else:
                    given = import_from("datasets", "load_dataset")(train, split=wanted)
            self._loaded[split] = given
        return self._loaded[split]


def _checked_dataset(argument: str, given: object) -> Any:
    if isinstance(given, (str, Path)):
        return text(argument, str(given))
    kind = imported("datasets", "Dataset")
    if kind is None or not isinstance(given, kind):
        raise TypeError(
            f"{argument} must be a datasets.Dataset of Hugging Face, or the name of one, not {named(given)}; of a "
            "DatasetDict give a part, such as parts['train'], and a stream has no examples by number"
        )
    return given
