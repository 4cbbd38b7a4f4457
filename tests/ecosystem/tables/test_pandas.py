"""pandas: frames and files as sources and as workers, and what is said of columns that do not serve."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from page import recipe

RECIPE = recipe("pandas")

import torch
from contract import is_a_plain_epoch, learns, opens, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.datasets import IID, Dirichlet, FrameDataModule, NaturalIds, PartitionedPopulation

FRAME = pd.DataFrame(
    {
        "age": [30, 40, 50, 60],
        "bmi": [20.5, 21.5, 22.5, 23.5],
        "smokes": [True, False, True, False],
        "ward": ["a", "b", "a", "b"],
        "ill": [0, 1, 1, 0],
        "days": [1.5, 2.5, 3.5, 4.5],
    }
)


def examples(frame: Any = FRAME, **options: Any) -> tuple[torch.Tensor, ...]:
    options = {"features": ["age", "bmi"], "label": "ill", **options}
    return FrameDataModule(frame, **options).examples("train").tensors


def test_one_worker_is_a_plain_trainer() -> None:
    source = lambda: FrameDataModule(  # noqa: E731
        RECIPE.patients(), features=["age", "bmi"], label="ill", val=RECIPE.patients(30), shuffle=False
    )
    is_a_plain_epoch(RECIPE.Logistic, source)


def test_hospitals_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    population = RECIPE.hospitals(RECIPE.patients())
    assert list(population) == ["Bonn", "Jena", "Ulm"]
    fed, run = learns("pandas", RECIPE.Logistic, population, caplog, rounds=5)
    assert {"train_loss", "val_acc"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path)


def test_groups_of_a_frame_are_workers() -> None:
    frame = RECIPE.patients()
    workers = {
        name: (part[["age", "bmi"]].to_numpy(), part["ill"].to_numpy("int64"))
        for name, part in frame.groupby("hospital")
    }
    module = RECIPE.Logistic()
    before = module.linear.weight.clone()
    trainer(max_epochs=1, limit_val_batches=0).fit(FederatedModule(module), FederatedDataModule(workers))
    assert not torch.equal(module.linear.weight, before)


def test_features_and_labels_by_hand() -> None:
    x, y = examples()
    assert x.tolist() == [[30, 20.5], [40, 21.5], [50, 22.5], [60, 23.5]]
    assert x.dtype == torch.float32
    assert y.tolist() == [0, 1, 1, 0]
    assert y.dtype == torch.int64
    assert examples(features=["bmi", "smokes"])[0].tolist() == [[20.5, 1], [21.5, 0], [22.5, 1], [23.5, 0]]
    assert examples(features=["b*", "[as]*s"])[0].shape == (4, 2)
    assert examples(label="smokes")[1].tolist() == [1, 0, 1, 0]
    assert examples(label="days")[1].tolist() == [1.5, 2.5, 3.5, 4.5]
    assert examples(label=["days"])[1].tolist() == [[1.5], [2.5], [3.5], [4.5]]
    assert examples(label=["days", "ill"])[1].shape == (4, 2)
    assert examples(label="ward", classes=["b", "a"])[1].tolist() == [1, 0, 1, 0]
    assert examples(FRAME.drop(columns=["ward"]), features=["*"])[0].shape == (4, 4), "all but the label"
    assert examples(FRAME.astype({"ill": "Int64", "age": "Int64"}))[1].tolist() == [0, 1, 1, 0]
    assert examples(FRAME.astype({"ward": "category"}), label="ward", classes=["a", "b"])[1].tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("name", ["patients.csv", "patients.csv.gz", "patients.parquet"])
def test_files_are_read_when_they_are_needed(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    source = FrameDataModule(str(path), features=["age"], label="ill", val=path)
    write = FRAME.to_parquet if name.endswith("parquet") else FRAME.to_csv
    write(path, index=False)
    assert source.examples("train").tensors[1].tolist() == [0, 1, 1, 0]
    ((x, _),) = source.val_dataloader()
    assert x.tolist() == [[30], [40], [50], [60]]
    path.unlink()
    source.teardown("fit")
    with pytest.raises(FileNotFoundError, match="patients"):
        source.examples("train")


def test_partitions_go_by_the_label_or_by_another_column() -> None:
    source = FrameDataModule(FRAME, features=["age"], label="ill")
    by_ward = PartitionedPopulation(source, NaturalIds("ward"))
    assert {name: by_ward.partition[i].tolist() for i, name in enumerate(by_ward)} == {"a": [0, 2], "b": [1, 3]}
    assert list(PartitionedPopulation(source, NaturalIds())) == ["0", "1"], "the label"
    assert list(PartitionedPopulation(source, NaturalIds(), labels="ward")) == ["a", "b"]
    assert PartitionedPopulation(source, NaturalIds("ward"), labels="ill").label_counts().labels == ("0", "1")
    for partition in (IID(workers=2), Dirichlet(workers=2, alpha=1.0)):
        assert PartitionedPopulation(source, partition).partition.sizes().sum() == 4
    counts = by_ward.label_counts()
    assert counts.labels == ("0", "1")
    assert counts.counts.tolist() == [[1, 1], [1, 1]]


def test_a_column_of_no_table_is_refused() -> None:
    for options in ({"partition": NaturalIds("ward")}, {"partition": NaturalIds(), "labels": "ward"}):
        population = PartitionedPopulation((torch.ones(2, 1), torch.ones(2)), **options)
        with pytest.raises(TypeError, match="name the column 'ward', and source is no table: give a FrameDataModule"):
            len(population)


def test_without_examples_to_validate_on_there_is_no_loader_of_them() -> None:
    from lightning_fed.population import has_loader

    assert not has_loader(FrameDataModule(FRAME, ["age"], "ill"), "val")
    assert has_loader(FrameDataModule(FRAME, ["age"], "ill", val=FRAME), "test")


def with_missing(column: str) -> pd.DataFrame:
    frame = FRAME.copy()
    frame[column] = frame[column].astype(object)
    frame.loc[[1, 3], column] = None
    return frame.astype({"age": "float64"}) if column == "age" else frame


TWICE = pd.concat([FRAME, FRAME[["age"]]], axis=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: examples(features=["agee"]),
            r"features \(train\): there is no column 'agee'; did you mean 'age'\?; th",
        ),
        (lambda: examples(label="il"), "train: there is no column 'il'; did you mean 'ill'"),
        (lambda: examples(features=["pixel_*"]), r"features \(train\): there is no column 'pixel_\*'"),
        (lambda: examples(features=["ill"]), "features: 'ill' is the label"),
        (lambda: examples(features=["ward"]), "column 'ward' of train holds 'a' and no numbers: encode it"),
        (lambda: examples(label="ward"), r"label: column 'ward' of train holds 'a' .*, classes=\['a', 'b'\]"),
        (lambda: examples(label="ward", classes=["a"]), "classes: column 'ward' of train holds 'b', which"),
        (lambda: examples(with_missing("age")), "column 'age' of train has 2 missing values, the first in row 1: fill"),
        (lambda: examples(with_missing("ill")), "column 'ill' of train has 2 missing values"),
        (lambda: examples(FRAME.assign(bmi=np.inf)), "column 'bmi' of train holds a value that is infinite"),
        (lambda: examples(TWICE), "train has several columns 'age'"),
        (lambda: examples(features=[]), "features is empty"),
        (lambda: examples(features=["age"], label=[]), "label is empty"),
        (lambda: examples("patients.xls"), "train='patients.xls' must be the path of a .csv or .parquet file"),
        (lambda: examples(FRAME["age"]), "train must be a pandas DataFrame or the path of a file, not a Series"),
        (
            lambda: len(
                PartitionedPopulation(FrameDataModule(with_missing("ward"), ["age"], "ill"), NaturalIds("ward"))
            ),
            "column 'ward' of train has 2 missing values",
        ),
        (lambda: FederatedDataModule({"bob": FRAME}), r"workers\['bob'\] is a pandas DataFrame, which does not say"),
        (lambda: FederatedDataModule({"bob": (FRAME, FRAME["ill"])}), r"workers\['bob'\]\[0\] is a pandas DataFrame"),
        (lambda: PartitionedPopulation(FRAME, IID(workers=2)), "source is a pandas DataFrame, which .*FrameDataModule"),
    ],
)
def test_what_does_not_serve_is_said_in_a_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_a_config_names_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_fed.cli import main

    monkeypatch.chdir(tmp_path)
    RECIPE.patients().to_csv("patients.csv", index=False)
    (tmp_path / "patients.yaml").write_text(
        """
model:
  module: {class_path: lightning_fed.models.MLPClassifier, init_args: {in_features: 2, classes: 2, hidden: [4]}}
data:
  workers:
    class_path: lightning_fed.datasets.PartitionedPopulation
    init_args:
      source:
        class_path: lightning_fed.datasets.FrameDataModule
        init_args: {train: patients.csv, features: [age, bmi], label: ill}
      partition: {class_path: lightning_fed.datasets.NaturalIds, init_args: {ids: hospital}}
trainer: {max_epochs: 1, logger: false, enable_checkpointing: false, accelerator: cpu, enable_progress_bar: false}
"""
    )
    main(["fit", "-c", "patients.yaml"])


def test_no_table_is_imported_before_it_is_needed() -> None:
    code = "import sys, lightning_fed.datasets; sys.exit(any(name in sys.modules for name in ('pandas', 'datasets')))"
    subprocess.run([sys.executable, "-c", code], check=True)
