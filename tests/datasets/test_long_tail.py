from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import is_overridden, pl
from lightning_fed.datasets import DigitsDataModule, LongTail, PartitionedPopulation, Shards
from lightning_fed.models import MLPClassifier
from tests.helpers import fit

LABELS = [2, 0, 1, 0, 0, 0, 1, 1]


def numbered(labels: Any) -> TensorDataset:
    """Examples (i, label of i)."""
    return TensorDataset(torch.arange(len(labels)), torch.tensor(labels))


class Source(pl.LightningDataModule):
    """Trains and tests on what it is given; no validation."""

    def __init__(self, train: Any, test: Any = None, **loader: Any) -> None:
        super().__init__()
        self.train, self.test, self.loader = train, test, loader
        self.calls: list[str] = []

    def prepare_data(self) -> None:
        self.calls.append("prepare")

    def setup(self, stage: str) -> None:
        self.calls.append(stage)

    def teardown(self, stage: str) -> None:
        self.calls.append(f"no {stage}")

    def train_dataloader(self) -> Any:
        return DataLoader(self.train, **self.loader)

    def test_dataloader(self) -> Any:
        return DataLoader(self.test)


class Lettered(Dataset[Any]):
    """Examples (i, letter), counting how many were read."""

    def __init__(self, letters: str) -> None:
        self.letters, self.reads = letters, 0

    def __len__(self) -> int:
        return len(self.letters)

    def __getitem__(self, index: int) -> tuple[int, str]:
        self.reads += 1
        return index, self.letters[index]


class Stream(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


def seen(loader: DataLoader[Any]) -> list[int]:
    return [int(i) for x, *_ in loader for i in x]


def cut(source: pl.LightningDataModule, decay: float = 0.5) -> LongTail:
    data = LongTail(source, decay)
    data.prepare_data()
    data.setup("fit")
    return data


def test_class_i_keeps_the_first_of_its_examples_by_hand() -> None:
    # Class 0 keeps all 4, class 1 one of 3 (1.5 rounded down), class 2 none of 1 (0.25).
    assert seen(cut(Source(numbered(LABELS))).train_dataloader()) == [1, 3, 4, 5, 2]
    assert seen(cut(Source(numbered(LABELS)), decay=1).train_dataloader()) == [1, 3, 4, 5, 2, 6, 7, 0]
    assert seen(cut(Source(numbered([7, 7, 7]))).train_dataloader()) == [0, 1, 2]


def test_counts_of_mnist_as_the_authors_code_has_them() -> None:
    # int(count * 0.5**i) of the ten digits, 12,256 and 2,045 in all.
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    data = cut(Source(*(numbered(np.repeat(np.arange(10), counts)) for counts in (train, test))))
    counts = [
        torch.cat([label for _, label in loader]).bincount(minlength=10).tolist()
        for loader in (data.train_dataloader(), data.test_dataloader())
    ]
    assert counts == [
        [5923, 3371, 1489, 766, 365, 169, 92, 48, 22, 11],
        [980, 567, 258, 126, 61, 27, 14, 8, 3, 1],
    ]


def test_evaluation_data_are_cut_by_the_classes_of_the_training_data() -> None:
    # No example of class 1: class 2 still keeps a quarter.
    data = cut(Source(numbered(LABELS), numbered([2, 2, 0, 2, 2, 0])))
    assert seen(data.test_dataloader()) == [2, 5, 0]


@pytest.mark.parametrize("nested", [False, True])
def test_labels_may_be_words_and_are_read_once(nested: bool) -> None:
    letters = Lettered("baabbbaa")
    data = cut(Source(Subset(letters, range(8)) if nested else letters))
    data.train_dataloader()
    reads = letters.reads
    kept = data.train_dataloader().dataset
    assert letters.reads == reads
    assert [kept[i] for i in range(len(kept))] == [  # type: ignore[arg-type]
        (1, "a"), (2, "a"), (6, "a"), (7, "a"), (0, "b"), (3, "b")
    ]  # fmt: skip


def test_loaders_are_as_the_sources() -> None:
    def first(examples: list[Any]) -> Tensor:
        return torch.stack([x for x, _ in examples])

    source = Source(numbered(LABELS), batch_size=2, drop_last=True, shuffle=True, collate_fn=first, num_workers=0)
    loader = cut(source).train_dataloader()
    assert [len(batch) for batch in loader] == [2, 2]
    torch.manual_seed(0)
    orders = {tuple(torch.cat([*loader]).tolist()) for _ in range(10)}
    assert len(orders) > 1
    digits = cut(DigitsDataModule(batch_size=100))
    assert [len(x) for x, _ in digits.train_dataloader()] == [100, 100, 84]


def test_lightning_sees_the_loaders_that_the_source_has() -> None:
    ours, digits = LongTail(Source(numbered(LABELS))), LongTail(DigitsDataModule())
    kinds = ("val_dataloader", "test_dataloader", "predict_dataloader")
    assert [is_overridden(kind, ours) for kind in kinds] == [False, True, False]
    assert [is_overridden(kind, digits) for kind in kinds] == [True, True, False]


def test_the_source_is_prepared_set_up_and_torn_down() -> None:
    source = Source(numbered(LABELS), numbered([0, 1]))
    data = LongTail(source)
    data.prepare_data()
    data.setup("test")
    assert source.calls == ["prepare", "fit", "test"]
    assert seen(data.test_dataloader()) == [0]
    data.setup("fit")
    data.teardown("fit")
    assert source.calls[3:] == ["fit", "no fit"]
    source.train = numbered([0, 0, 1])
    assert seen(data.train_dataloader()) == [0, 1]
    source.train = numbered([1, 0, 1])  # a datamodule may give other data in a later epoch
    assert seen(data.train_dataloader()) == [1, 0]


def test_as_a_source_of_a_population_and_as_central_data() -> None:
    # Sorted by label and cut in two: class 0 has 142 of the 284.
    population = PartitionedPopulation(LongTail(DigitsDataModule()), Shards(workers=2, shards_per_worker=1))
    counts = population.label_counts().counts.tolist()
    assert sorted(counts) == [[0, 73, 35, 18, 9, 4, 2, 1], [142, 0, 0, 0, 0, 0, 0, 0]]
    assert isinstance(population.dataset, TensorDataset)  # which engines index at once
    data = FederatedDataModule(population, val=LongTail(DigitsDataModule()))
    run = fit(FederatedModule(MLPClassifier()), data, max_epochs=2)
    # Half of those held out are of class 0; two rounds tell it from the others.
    assert run.callback_metrics["val_acc"] >= 0.5


@pytest.mark.parametrize("is_set_up", [False, True])
def test_pickles(is_set_up: bool) -> None:
    data = LongTail(Source(numbered(LABELS)))
    if is_set_up:
        data.setup("fit")
    again = pickle.loads(pickle.dumps(data))
    again.setup("fit")
    assert seen(again.train_dataloader()) == [1, 3, 4, 5, 2]
    assert not is_overridden("val_dataloader", again)


def test_repr() -> None:
    assert repr(LongTail(DigitsDataModule(), 0.3)) == "LongTail(source=DigitsDataModule(), decay=0.3)"


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (Source(Stream()), TypeError, "source: Stream has no examples by number"),
        (Source([{"x": 1}]), TypeError, r"no example\[-1\] that serves as one: give a datamodule whose examples are"),
        (Source(TensorDataset(torch.zeros(2, 2))), ValueError, r"labels of shape \(2, 2\)"),
        (
            Source(numbered([0, 1]), sampler=WeightedRandomSampler([1.0, 1.0], 2)),
            TypeError,
            r"source: train_dataloader\(\) gives a DataLoader with a sampler of its own",
        ),
        (
            Source(numbered([0, 1]), sampler=RandomSampler([0, 1], replacement=True)),
            TypeError,
            r"source: train_dataloader\(\) gives a DataLoader with a sampler of its own",
        ),
        (
            Source(numbered([0, 1]), sampler=RandomSampler([0, 1], num_samples=1)),
            TypeError,
            r"source: train_dataloader\(\) gives a DataLoader with a sampler of its own",
        ),
        (
            Source(numbered([0, 1]), batch_sampler=[[0, 1]]),
            TypeError,
            r"source: train_dataloader\(\) gives a DataLoader with a sampler of its own",
        ),
    ],
)
def test_sources_that_cannot_be_cut_are_refused(source: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        cut(source).train_dataloader()


def test_a_generator_and_a_batch_sampler_are_as_the_sources() -> None:
    generator = torch.Generator()
    shuffled = cut(Source(numbered(LABELS), batch_size=3, shuffle=True, generator=generator)).train_dataloader()
    assert shuffled.generator is generator
    batches = BatchSampler(RandomSampler(LABELS), batch_size=3, drop_last=True)
    by_batches = cut(Source(numbered(LABELS), batch_sampler=batches)).train_dataloader()
    assert (by_batches.batch_size, by_batches.drop_last) == (3, True)
    assert type(by_batches.sampler) is RandomSampler


def test_a_label_of_the_evaluation_data_only_is_refused() -> None:
    with pytest.raises(ValueError, match=r"test_dataloader\(\) has the label 9, which no training example has"):
        cut(Source(numbered(LABELS), numbered([0, 9]))).test_dataloader()


def test_loaders_before_the_setup_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r'LongTail is not set up: call setup\("fit"\) first'):
        LongTail(Source(numbered(LABELS))).train_dataloader()


@pytest.mark.parametrize("decay", [0, -0.5, 1.5])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match="decay="):
        LongTail(DigitsDataModule(), decay)
