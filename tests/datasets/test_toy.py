from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset

from lightning_fed.datasets import ToyDataModule

X = [[1.0, 1.0], [0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]
TARGET = [[1.0], [1.0], [0.0], [0.0]]


@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader", "test_dataloader"])
def test_all_rows_in_one_batch_in_order(loader: str) -> None:
    batches = list(getattr(ToyDataModule(), loader)())
    assert len(batches) == 1
    x, target = batches[0]
    assert (x.tolist(), target.tolist()) == (X, TARGET)
    assert x.dtype == target.dtype == torch.float32


def test_loader_is_plain_over_a_tensor_dataset() -> None:
    loader = ToyDataModule().train_dataloader()
    assert type(loader) is DataLoader
    assert type(loader.dataset) is TensorDataset
    assert isinstance(loader.sampler, SequentialSampler)


def test_rows_are_picked_in_the_order_given() -> None:
    x, target = next(iter(ToyDataModule(rows=(2, 0)).train_dataloader()))
    assert (x.tolist(), target.tolist()) == ([X[2], X[0]], [TARGET[2], TARGET[0]])


def test_prediction_sees_x_alone() -> None:
    batches = list(ToyDataModule(rows=[1, 2, 3], batch_size=2).predict_dataloader())
    assert [batch.tolist() for batch in batches] == [[X[1], X[2]], [X[3]]]


def test_batch_size_cuts_the_rows() -> None:
    assert [len(x) for x, _ in ToyDataModule(batch_size=3).train_dataloader()] == [3, 1]


def test_pickles() -> None:
    again = pickle.loads(pickle.dumps(ToyDataModule(rows=[3])))
    assert next(iter(again.train_dataloader()))[0].tolist() == [X[3]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": []}, r"rows=\[\]"),
        ({"rows": [0, 4]}, r"rows=\[0, 4\].*0 to 3"),
        ({"rows": [-1]}, r"rows=\[-1\]"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ToyDataModule(**arguments)
