from __future__ import annotations

import pickle
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import RandomSampler, TensorDataset

from lightning_fed.datasets import DigitsDataModule


def parts(**settings: Any) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Training and held-out tensors, in the order of the datasets."""
    data = DigitsDataModule(**settings)
    data.setup("fit")
    train, test = data.train_dataloader().dataset, data.test_dataloader().dataset
    assert isinstance(train, TensorDataset)
    assert isinstance(test, TensorDataset)
    return train.tensors, test.tensors


def test_shapes_types_and_range() -> None:
    (x, label), (test_x, test_label) = parts()
    assert (tuple(x.shape), tuple(test_x.shape)) == ((1437, 64), (360, 64))
    assert (x.dtype, label.dtype) == (torch.float32, torch.int64)
    assert (test_x.dtype, test_label.dtype) == (torch.float32, torch.int64)
    assert (x.min().item(), x.max().item(), test_x.max().item()) == (0.0, 1.0, 1.0)
    assert set(label.tolist()) == set(range(10))


def test_parts_are_disjoint_and_complete() -> None:
    (x, _), (test_x, _) = parts()
    assert len(np.unique(torch.cat([x, test_x]).numpy(), axis=0)) == 1797  # no two of the digits are alike


def test_each_class_keeps_its_share() -> None:
    (_, label), (_, test_label) = parts(test_fraction=0.25)
    held, total = test_label.bincount(), test_label.bincount() + label.bincount()
    assert (held - total * 0.25).abs().max() < 1


def test_split_is_a_function_of_the_seed() -> None:
    first, again, other = parts(seed=1), parts(seed=1), parts(seed=2)
    assert torch.equal(first[1][0], again[1][0])
    assert not torch.equal(first[1][0], other[1][0])


def test_training_is_shuffled_and_evaluation_is_not() -> None:
    data = DigitsDataModule(batch_size=100)
    data.setup("fit")
    assert isinstance(data.train_dataloader().sampler, RandomSampler)
    held_out = parts()[1][1]
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert torch.equal(torch.cat([label for _, label in loader]), held_out)
        assert [len(x) for x, _ in loader] == [100, 100, 100, 60]


def test_setting_up_again_keeps_the_data() -> None:
    data = DigitsDataModule()
    data.setup("fit")
    before = data.train_dataloader().dataset
    data.setup("test")
    assert data.train_dataloader().dataset is before


def test_pickles() -> None:
    data = DigitsDataModule()
    data.setup("fit")
    assert len(pickle.loads(pickle.dumps(data)).train_dataloader().dataset) == 1437


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'pip install "lightning_fed\[examples\]"'):
        DigitsDataModule().setup("fit")


def test_loaders_before_setup_say_what_to_call() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        DigitsDataModule().train_dataloader()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"test_fraction": 0.0}, "test_fraction=0.0"),
        ({"test_fraction": 1.0}, "test_fraction=1.0"),
        ({"batch_size": 0}, "batch_size=0"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DigitsDataModule(**arguments)
