"""Checksums of the workers' data: what tells runs apart that were given other data."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed import FederatedDataModule
from lightning_fed.record.facts import of_the_data


def facts(shows: bool = True, **workers: Any) -> dict[str, Any]:
    """What is recorded of workers' data."""
    return of_the_data(FederatedDataModule(workers), shows)


def pair(rows: int, flip: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.arange(2.0 * rows).reshape(rows, 2)
    y = torch.arange(rows) % 2
    return x, 1 - y if flip else y


def test_sizes_of_given_tensors_and_datasets() -> None:
    """4, 6 and 8 examples: the median is 6."""
    x, y = pair(8)
    data = facts(a=pair(4), b={"train": TensorDataset(*pair(6)), "val": pair(2)}, c={"train": {"x": x, "y": y}})
    assert data["sizes"] == {"total": 18, "min": 4, "median": 6.0, "max": 8}
    assert facts(a=DataLoader(TensorDataset(*pair(5)), batch_size=2))["sizes"]["total"] == 5


def test_the_same_sizes_of_other_workers_have_another_checksum() -> None:
    one, other = facts(a=pair(4), b=pair(6)), facts(a=pair(6), b=pair(4))
    assert one["sizes"] == other["sizes"]
    assert one["sizes_checksum"] != other["sizes_checksum"]


def test_flipped_labels_have_another_checksum() -> None:
    one, again, other = facts(a=pair(4)), facts(a=pair(4)), facts(a=pair(4, flip=True))
    assert one == again
    assert one["sizes_checksum"] == other["sizes_checksum"]
    assert one["contents_checksum"] != other["contents_checksum"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.bool, torch.float64])
def test_tensors_of_any_dtype(dtype: torch.dtype) -> None:
    assert facts(a=torch.ones(4, 2, dtype=dtype).T)["contents_checksum"] is not None


def test_nothing_of_it_is_recorded_where_it_is_hidden() -> None:
    assert facts(shows=False, a=pair(4)) == {"population": 1, "cohort_size": 1}
