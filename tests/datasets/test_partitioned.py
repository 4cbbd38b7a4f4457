from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_fed._lightning import is_overridden, pl
from lightning_fed.datasets import (
    IID,
    DigitsDataModule,
    NaturalIds,
    Partition,
    PartitionedPopulation,
    Partitioner,
    Shards,
    SplitSubsetDataModule,
    SubsetDataModule,
    ToyDataModule,
)


def tensors(n: int) -> TensorDataset:
    """Examples (i, i % 2)."""
    return TensorDataset(torch.arange(n), torch.arange(n) % 2)


def seen(loader: DataLoader[Any]) -> list[int]:
    return [int(i) for x, _ in loader for i in x]


class Counting(Dataset[Any]):
    """Examples (i, i % 2), counting how many were read."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.reads = 0

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        return torch.tensor(index), index % 2


class Words(Dataset[Tensor]):
    """Examples of different lengths."""

    def __init__(self, words: list[Tensor]) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> Tensor:
        return self.words[index]


class Source(pl.LightningDataModule):
    """Records what is called on it."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.loader = loader

    def prepare_data(self) -> None:
        self.calls.append("prepare")

    def setup(self, stage: str) -> None:
        self.calls.append(stage)

    def train_dataloader(self) -> Any:
        return self.loader


class Halving(Partitioner):
    """A partitioner that forgets half of the examples."""

    def __call__(self, labels: NDArray[Any]) -> Partition:
        return Partition(np.arange(len(labels) // 2), np.array([0, len(labels) // 2]))


# By hand


def test_each_worker_sees_its_own_examples() -> None:
    population = PartitionedPopulation(tensors(6), NaturalIds())
    assert dict.fromkeys(population) == {"0": None, "1": None}
    assert sorted(seen(population["0"].train_dataloader())) == [0, 2, 4]
    assert sorted(seen(population["1"].train_dataloader())) == [1, 3, 5]
    assert (len(population), population.num_examples("1"), population.name(1)) == (2, 3, "1")


def test_toy_rows_from_a_datamodule() -> None:
    population = PartitionedPopulation(ToyDataModule(), NaturalIds(["bob", "bob", "alice", "alice"]), shuffle=False)
    ((x, target),) = population["bob"].train_dataloader()
    assert (x.tolist(), target.tolist()) == ([[1.0, 1.0], [0.0, 1.0]], [[1.0], [1.0]])


def test_loader_settings() -> None:
    population = PartitionedPopulation(tensors(10), IID(1), batch_size=4, shuffle=False, drop_last=True)
    loader = population["worker_0"].train_dataloader()
    assert [len(x) for x, _ in loader] == [4, 4]
    assert seen(loader) == population.partition[0].tolist()[:8]


def test_shuffles_unless_told_otherwise() -> None:
    population = PartitionedPopulation(tensors(100), NaturalIds([0] * 100))
    order = seen(population["0"].train_dataloader())
    assert sorted(order) == list(range(100)) != order


def test_loader_processes() -> None:
    population = PartitionedPopulation(tensors(4), NaturalIds(), val_fraction=0.5, num_workers=1)
    worker = population["0"]
    assert isinstance(worker, SplitSubsetDataModule)
    assert worker.train_dataloader().num_workers == worker.val_dataloader().num_workers == 1


def test_a_function_of_the_users_makes_the_batches() -> None:
    """Examples of different lengths are padded to the longest one of their batch."""
    words = [torch.ones(length) for length in (1, 3, 2, 5)]
    population = PartitionedPopulation(
        Words(words), IID(workers=1), batch_size=4, val_fraction=0.5, collate_fn=nn.utils.rnn.pad_sequence
    )
    worker = population["worker_0"]
    assert isinstance(worker, SplitSubsetDataModule)
    for loader in (worker.train_dataloader(), worker.val_dataloader()):
        (batch,) = loader
        assert batch.shape[1] == 2
        assert batch.sum() > batch.shape[0]
    with pytest.raises(TypeError, match="collate_fn='pad' must be a function that makes a batch of a list of examples"):
        PartitionedPopulation(Words(words), IID(workers=1), collate_fn="pad")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("size", "val_fraction", "train"), [(10, 0.0, 10), (10, 0.25, 8), (10, 0.99, 1), (2, 0.5, 1), (1, 0.9, 1)]
)
def test_held_out_share_is_rounded_down(size: int, val_fraction: float, train: int) -> None:
    population = PartitionedPopulation(tensors(size), IID(1), val_fraction=val_fraction)
    assert population.num_examples("worker_0") == train == len(seen(population["worker_0"].train_dataloader()))


def test_at_least_one_example_stays_to_train_on_whatever_the_rounding() -> None:
    population = PartitionedPopulation(tensors(100), IID(1), val_fraction=1 - 2**-53)
    assert population.num_examples("worker_0") == 1


def test_lightning_sees_validation_only_where_something_is_held_out() -> None:
    whole = PartitionedPopulation(tensors(4), IID(2))["worker_0"]
    split = PartitionedPopulation(tensors(4), IID(2), val_fraction=0.5)["worker_0"]
    too_small = PartitionedPopulation(tensors(4), IID(4), val_fraction=0.5)["worker_0"]
    assert [type(worker) for worker in (whole, split, too_small)] == [
        SubsetDataModule,
        SplitSubsetDataModule,
        SubsetDataModule,
    ]
    assert [is_overridden("val_dataloader", worker) for worker in (whole, split, too_small)] == [False, True, False]


def test_held_out_examples_are_a_random_choice_that_stays() -> None:
    # Shards come sorted by label: a tail held out would be all of one class.
    labels = np.repeat([0, 1], 500)
    population = PartitionedPopulation(tensors(1000), Shards(1), labels, val_fraction=0.2, batch_size=7)
    worker, again = population["worker_0"], population["worker_0"]
    assert isinstance(worker, SplitSubsetDataModule)
    assert isinstance(again, SplitSubsetDataModule)
    held_out = seen(worker.val_dataloader())
    assert len(held_out) == 200
    assert 0.35 < labels[held_out].mean() < 0.65
    assert held_out == seen(again.val_dataloader())


# Properties


@settings(deadline=None, max_examples=40)
@given(n=st.integers(1, 40), val_fraction=st.floats(0, 0.99), data=st.data())
def test_nothing_dropped_nothing_doubled(n: int, val_fraction: float, data: st.DataObject) -> None:
    workers = data.draw(st.integers(1, n))
    population = PartitionedPopulation(tensors(n), IID(workers), val_fraction=val_fraction, batch_size=3)
    everything: list[int] = []
    for name, worker in population.items():
        train = seen(worker.train_dataloader())
        assert len(train) == population.num_examples(name) >= 1
        everything += train
        if isinstance(worker, SplitSubsetDataModule):
            everything += seen(worker.val_dataloader())
    assert sorted(everything) == list(range(n))


def test_nothing_happens_before_first_use_and_then_once() -> None:
    source = Source(DataLoader(tensors(4)))
    population = PartitionedPopulation(source, IID(2))
    assert source.calls == []
    assert len(population) == 2
    assert population["worker_0"] is not population["worker_1"]
    assert list(population) == ["worker_0", "worker_1"]
    assert source.calls == ["prepare", "fit"]


@pytest.mark.parametrize("val_fraction", [0.0, 0.5])
def test_says_which_loaders_there_are_without_dealing_out(val_fraction: float) -> None:
    source = Source(DataLoader(tensors(4)))
    population = PartitionedPopulation(source, IID(2), val_fraction=val_fraction)
    assert [population.has_loader(kind) for kind in ("val", "test", "predict")] == [val_fraction > 0, False, False]
    assert source.calls == []


def test_workers_share_one_dataset() -> None:
    dataset = tensors(4)
    population = PartitionedPopulation(dataset, IID(2))
    assert all(population[name].train_set.dataset is dataset for name in population)
    assert population.dataset is dataset


def test_a_million_workers_cost_nothing_until_asked_for() -> None:
    dataset = Counting(1_000_000)
    population = PartitionedPopulation(dataset, IID(1_000_000))
    assert population.num_examples("worker_999999") == 1
    assert "worker_000000" in population
    assert next(iter(population)) == "worker_000000"
    assert dataset.reads == 0
    assert seen(population["worker_123456"].train_dataloader()) == population.partition[123456].tolist()
    assert dataset.reads == 1


def test_membership_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    population = PartitionedPopulation(tensors(4), IID(2))
    monkeypatch.setattr(PartitionedPopulation, "__getitem__", None)
    assert "worker_1" in population
    assert "worker_2" not in population
    assert object() not in population


def test_equal_only_to_itself() -> None:
    population = same = PartitionedPopulation(tensors(4), IID(2))
    other = PartitionedPopulation(tensors(4), IID(2))
    assert population == same
    assert population != other
    assert len({population, other}) == 2


@pytest.mark.parametrize("used", [False, True])
def test_pickles(used: bool) -> None:
    population = PartitionedPopulation(DigitsDataModule(), Shards(10), val_fraction=0.1)
    if used:
        assert len(population) == 10
    again = pickle.loads(pickle.dumps(population))
    worker, same = population["worker_3"], pickle.loads(pickle.dumps(again["worker_3"]))
    assert worker.train_set.indices == same.train_set.indices
    assert torch.equal(next(iter(worker.val_dataloader()))[0], next(iter(same.val_dataloader()))[0])


# Where the labels come from


def names(dataset: Dataset[Any], labels: NDArray[Any] | None = None) -> dict[str, int]:
    population = PartitionedPopulation(dataset, NaturalIds(), labels)
    return {name: population.num_examples(name) for name in population}


def test_labels_given() -> None:
    assert names(tensors(3), np.array([5, 6, 5])) == {"5": 2, "6": 1}


def test_labels_of_a_tensor_dataset_and_of_subsets_of_one() -> None:
    subset = Subset(tensors(9), [0, 2, 3, 4])
    assert names(tensors(5)) == {"0": 3, "1": 2}
    assert names(subset) == {"0": 3, "1": 1}
    assert names(Subset(subset, [1, 2])) == {"0": 1, "1": 1}


def test_labels_are_collected_once_from_any_other_dataset() -> None:
    dataset = Counting(5)
    assert names(dataset) == {"0": 3, "1": 2}
    assert dataset.reads == 5
    assert names(Subset(dataset, [1, 3])) == {"1": 2}
    assert dataset.reads == 7


def test_labels_that_nobody_needs_are_not_collected() -> None:
    dataset = Counting(5)
    assert len(PartitionedPopulation(dataset, IID(2))) == 2
    assert dataset.reads == 0


# Faults


@pytest.mark.parametrize("name", ["worker_2", "bob", ""])
def test_unknown_worker(name: str) -> None:
    population = PartitionedPopulation(tensors(4), IID(2))
    with pytest.raises(KeyError, match="worker_0"):
        population[name]
    with pytest.raises(KeyError, match="worker_0"):
        population.num_examples(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"val_fraction": 1.0}, "val_fraction=1.0"),
        ({"val_fraction": -0.1}, "val_fraction=-0.1"),
        ({"num_workers": -1}, "num_workers=-1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PartitionedPopulation(tensors(4), IID(2), **arguments)


def test_source_that_is_neither_datamodule_nor_dataset() -> None:
    with pytest.raises(TypeError, match="source"):
        PartitionedPopulation([1, 2], IID(2))  # type: ignore[arg-type]


class Stream(IterableDataset[int]):
    """A dataset without numbers."""

    def __iter__(self) -> Any:
        return iter(range(3))


class Dictionaries(Counting):
    """A dataset without an ``example[-1]``."""

    def __getitem__(self, index: int) -> Any:
        return {"x": index}


@pytest.mark.parametrize(
    ("source", "partition", "labels", "error", "message"),
    [
        (Stream(), IID(2), None, TypeError, "source: Stream.*map-style"),
        (Source(DataLoader(Stream())), IID(2), None, TypeError, "source: Stream.*map-style"),
        (Source([DataLoader(tensors(3))]), IID(2), None, TypeError, "source: train_dataloader.*one DataLoader"),
        (Dictionaries(3), Shards(1), None, TypeError, "labels: Dictionaries.*give labels="),
        (tensors(3), IID(2), np.zeros(4), ValueError, "labels: 4 for 3 examples"),
        (tensors(4), Halving(), None, ValueError, "partition deals out 2 examples of 4"),
    ],
)
def test_faults_found_on_first_use(
    source: Any, partition: Partitioner, labels: Any, error: type[Exception], message: str
) -> None:
    population = PartitionedPopulation(source, partition, labels)
    with pytest.raises(error, match=message):
        len(population)
