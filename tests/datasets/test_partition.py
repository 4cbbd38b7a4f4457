from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from lightning_fed.datasets import Partition


def partition_of(*parts: list[int], names: list[str] | None = None) -> Partition:
    return Partition(np.concatenate(parts), np.cumsum([0, *map(len, parts)]), names)


def test_reads_back_what_it_was_given() -> None:
    partition = partition_of([2, 0], [3], [1, 4, 5])
    assert len(partition) == 3
    assert [part.tolist() for part in partition] == [[2, 0], [3], [1, 4, 5]]
    assert partition.sizes().tolist() == [2, 1, 3]
    assert partition.indices.dtype == partition.offsets.dtype == partition.sizes().dtype == np.int64
    assert repr(partition) == "Partition(workers=3, examples=6)"


@pytest.mark.parametrize(
    ("workers", "first", "last"),
    [
        (1, "worker_0", "worker_0"),
        (10, "worker_0", "worker_9"),
        (11, "worker_00", "worker_10"),
        (100, "worker_00", "worker_99"),
        (101, "worker_000", "worker_100"),
    ],
)
def test_computed_names_are_padded_to_the_last(workers: int, first: str, last: str) -> None:
    partition = Partition(np.arange(workers), np.arange(workers + 1))
    names = list(partition.iter_names())
    assert (names[0], names[-1]) == (first, last) == (partition.name(0), partition.name(workers - 1))
    assert names == sorted(names)
    assert [partition.position(name) for name in names] == list(range(workers))
    assert partition.names is None


@pytest.mark.parametrize(
    "name",
    [
        "worker_1",
        "worker_011",
        "worker_12",
        "worker_-1",
        "worker_",
        "worker_1_",
        "worker_ 1",
        "worker_٠١",
        "01",
        "bob",
    ],
    ids=ascii,
)
def test_computed_names_know_no_others(name: str) -> None:
    partition = Partition(np.arange(12), np.arange(13))
    with pytest.raises(KeyError, match="first is 'worker_00'"):
        partition.position(name)


def test_a_number_too_long_for_python_is_no_name() -> None:
    with pytest.raises(KeyError):
        Partition(np.arange(12), np.arange(13)).position("worker_" + "9" * 5000)


def test_given_names() -> None:
    partition = partition_of([0], [1], names=["bob", "alice"])
    assert list(partition.iter_names()) == ["bob", "alice"]
    assert (partition.name(1), partition.position("alice")) == ("alice", 1)
    with pytest.raises(KeyError, match=r"'eve'.*first is 'bob'"):
        partition.position("eve")
    with pytest.raises(KeyError, match="worker_0"):
        partition.position("worker_0")


def test_arrays_that_nobody_can_write_to_are_not_copied() -> None:
    indices, offsets = np.array([1, 0]), np.array([0, 1, 2])
    indices.setflags(write=False)
    partition = Partition(indices, offsets)
    assert np.shares_memory(partition.indices, indices)
    assert not np.shares_memory(partition.offsets, offsets)


def test_is_frozen_and_apart_from_the_arrays_it_came_from() -> None:
    indices = np.array([1, 0])
    partition = Partition(indices, np.array([0, 1, 2]))
    indices[:] = 0
    assert partition.indices.tolist() == [1, 0]
    with pytest.raises(ValueError, match="read-only"):
        partition.indices[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        partition[0][0] = 0
    with pytest.raises(AttributeError):
        partition.names = ("a", "b")  # type: ignore[misc]


@pytest.mark.parametrize("names", [None, ["bob", "alice"]])
def test_pickles(names: list[str] | None) -> None:
    again = pickle.loads(pickle.dumps(partition_of([1], [0], names=names)))
    assert [part.tolist() for part in again] == [[1], [0]]
    assert again.position(again.name(1)) == 1


@pytest.mark.parametrize("position", [-1, 2])
def test_position_out_of_range(position: int) -> None:
    partition = partition_of([0], [1])
    with pytest.raises(IndexError, match=f"position {position}.*0 to 1"):
        partition[position]
    with pytest.raises(IndexError, match=f"position {position}"):
        partition.name(position)


@pytest.mark.parametrize(
    ("indices", "offsets", "names", "message"),
    [
        ([0, 0, 1], [0, 3], None, "2 is missing"),
        ([0, 1, 3], [0, 3], None, "2 is missing"),
        ([0, 1, -1], [0, 3], None, "2 is missing"),
        ([0, 1], [0, 1], None, "offsets must run from 0 to len.*2"),
        ([0, 1], [1, 2], None, "offsets must run from 0"),
        ([0], [0], None, "offsets must run from 0"),
        (np.arange(0), [0], None, "offsets must run from 0"),
        (np.arange(0), np.arange(0), None, "offsets must run from 0"),
        ([0, 1], [0, 1, 1, 2], None, "offsets: the worker at position 1 holds no example"),
        ([0, 1, 2], [0, 2, 1, 3], None, "offsets: the worker at position 1"),
        ([[0, 1]], [0, 2], None, "indices must be a one-dimensional array of integers"),
        ([0.0, 1.0], [0, 2], None, "indices must be .* integers, not float64"),
        ([0, 1], [0.0, 2.0], None, "offsets must be .* integers"),
        ([0, 1], [0, 1, 2], ["a"], "names: 1 for 2 workers"),
        ([0, 1], [0, 1, 2], [], "names: 0 for 2 workers"),
        ([0, 1], [0, 1, 2], ["a", "a"], "names must be unique"),
    ],
)
def test_faults_are_named(indices: Any, offsets: Any, names: list[str] | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Partition(np.array(indices), np.array(offsets), names)
