"""Hugging Face's datasets: as sources and as workers, and what is said of columns that do not serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from page import recipe

RECIPE = recipe("datasets")

import datasets
import torch
from contract import is_a_plain_epoch, learns, opens, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.datasets import IID, HuggingFaceDataModule, NaturalIds, PartitionedPopulation

COLUMNS = ["pixels", "label"]


def test_one_worker_is_a_plain_trainer() -> None:
    is_a_plain_epoch(
        RECIPE.Classifier,
        lambda: HuggingFaceDataModule(RECIPE.pictures(), columns=COLUMNS, val=RECIPE.pictures(20), shuffle=False),
    )


def test_workers_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    fed, run = learns("datasets", RECIPE.Classifier, RECIPE.workers(RECIPE.pictures()), caplog, rounds=5)
    assert {"train_loss", "val_acc"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path)


def test_a_dataset_is_a_workers_data_as_it_is() -> None:
    parts = datasets.DatasetDict(train=RECIPE.pictures(8), test=RECIPE.pictures(4)).with_format("torch")
    module = RECIPE.Classifier()
    before = module.linear.weight.clone()
    data = FederatedDataModule({"bob": RECIPE.pictures(8).with_format("torch"), "alice": parts})
    trainer(max_epochs=1, limit_val_batches=0).fit(FederatedModule(module), data)
    assert not torch.equal(module.linear.weight, before)


def test_partitions_go_by_columns() -> None:
    population = RECIPE.workers(RECIPE.pictures(), NaturalIds("writer"))
    assert list(population) == [f"writer {i}" for i in range(5)]
    assert population.partition[3].tolist()[:3] == [3, 8, 13]
    batch = next(iter(population["writer 3"].train_dataloader()))
    assert batch.keys() == {"pixels", "label"}
    assert batch["pixels"].shape == (20, 4)
    assert population.label_counts().labels == ("0", "1", "2")
    direct = PartitionedPopulation(RECIPE.pictures(6).with_format("torch"), IID(workers=2))
    assert direct.partition.sizes().tolist() == [3, 3]


@pytest.mark.parametrize("saves", ["dataset", "parts", "csv"])
def test_datasets_are_loaded_by_path(tmp_path: Path, saves: str) -> None:
    folder = tmp_path / "saved"
    rows = RECIPE.pictures(6).remove_columns("pixels")
    if saves == "dataset":
        rows.save_to_disk(folder)
    elif saves == "parts":
        datasets.DatasetDict(train=rows, test=rows.select([0])).save_to_disk(folder)
    else:
        rows.to_csv(folder / "train.csv")
        rows.select([0]).to_csv(folder / "test.csv")
    source = HuggingFaceDataModule(str(folder), val=None if saves == "dataset" else "test")
    source.prepare_data()
    (batch,) = source.train_dataloader()
    assert sorted(batch["label"].tolist()) == [0, 0, 1, 1, 2, 2]
    if saves != "dataset":
        (held_out,) = source.val_dataloader()
        assert held_out["label"].tolist() == [0]


def test_a_format_of_the_users_own_stays() -> None:
    dataset = RECIPE.pictures(4).with_transform(lambda rows: {"x": [len(row) for row in rows["pixels"]]})
    (batch,) = HuggingFaceDataModule(dataset).train_dataloader()
    assert batch["x"].tolist() == [4, 4, 4, 4]


def missing() -> Any:
    return datasets.Dataset.from_dict({"x": [1.0, 2.0], "label": [0, None]})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: HuggingFaceDataModule(RECIPE.pictures(), columns=["pixel"]).train_dataloader(),
            r"columns \(train\): there is no column 'pixel'; did you mean 'pixels'",
        ),
        (
            lambda: len(RECIPE.workers(RECIPE.pictures(), NaturalIds("writers"))),
            "train: there is no column 'writers'; did you mean 'writer'",
        ),
        (
            lambda: len(PartitionedPopulation(HuggingFaceDataModule(missing()), NaturalIds())),
            "column 'label' of train has 1 missing values, the first in row 1",
        ),
        (
            lambda: HuggingFaceDataModule(datasets.DatasetDict()),
            "train must be a datasets.Dataset .*parts\\['train'\\]",
        ),
        (
            lambda: HuggingFaceDataModule(RECIPE.pictures().to_iterable_dataset()),
            "train must be a datasets.Dataset .*, not an IterableDataset; .* a stream has no examples by number",
        ),
        (
            lambda: HuggingFaceDataModule(RECIPE.pictures(), val="test"),
            "val='test' names a split, and train is no name",
        ),
    ],
)
def test_what_does_not_serve_is_said_in_a_sentence(make: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
