"""Which rows of a data set are a worker's: those that its loader's sampler names, and no others are ever read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from helpers import fit
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from lightning_fed import FederatedDataModule, FederatedModule, WorkerError
from lightning_fed._lightning import pl
from lightning_fed.privacy import Noise, RecordDP
from lightning_fed.wire import RecordPrivacy
from lightning_fed.worker.poisson import PoissonSamples, rows_of

READ: list[Any] = []


class Everyones(Dataset[Any]):
    """A data set of all workers; notes which rows are read."""

    def __init__(self, n: int = 12) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, row: Any) -> Any:
        READ.append(row)
        return torch.tensor([float(row)])


class Several(Everyones):
    """Reads the rows of a batch at once."""

    def __getitems__(self, rows: list[int]) -> list[Any]:
        return [self[row] for row in rows]


class Named(Dataset[Any]):
    """Without a length, and with keys that are no numbers."""

    def __getitem__(self, key: str) -> Any:
        READ.append(key)
        return torch.tensor([float(len(key))])


class Own(Sampler[int]):
    def __init__(self, rows: Any) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)


class OtherEachTime(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        return iter(torch.randperm(12)[:6].tolist())


class Endless(Sampler[int]):
    def __iter__(self) -> Iterator[int]:
        while True:
            yield int(torch.randint(12, ()))


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter([torch.zeros(1)])


class OwnLoader(DataLoader[Any]):
    def __iter__(self) -> Any:
        return iter([[torch.zeros(1)]])


data = Everyones()

HONOURED: Mapping[str, tuple[Callable[[], DataLoader[Any]], list[Any]]] = {
    "all": (lambda: DataLoader(data, 4), list(range(12))),
    "shuffled": (lambda: DataLoader(data, 5, shuffle=True, drop_last=True), list(range(12))),
    "a part": (lambda: DataLoader(data, 2, sampler=SubsetRandomSampler([7, 3, 5])), [3, 5, 7]),
    "a subset": (lambda: DataLoader(Subset(data, [9, 2]), 2, shuffle=True), [2, 9]),
    "a subset's part": (lambda: DataLoader(Subset(data, [9, 2]), 2, sampler=SubsetRandomSampler([1])), [2]),
    "of another length": (lambda: DataLoader(data, 2, sampler=SequentialSampler(range(3))), [0, 1, 2]),
    "a random one of another length": (lambda: DataLoader(data, 2, sampler=RandomSampler(range(3))), [0, 1, 2]),
    "one's own": (lambda: DataLoader(data, 2, sampler=Own([4, 1])), [1, 4]),
    "of tensors": (lambda: DataLoader(data, 2, sampler=Own(torch.tensor([4, 1]))), [1, 4]),
    "a plain list": (lambda: DataLoader(data, 2, sampler=[4, 1]), [1, 4]),
    "in batches": (lambda: DataLoader(data, batch_sampler=[[4, 1], [6]]), [1, 4, 6]),
    "in batches of one's own sampler": (
        lambda: DataLoader(data, batch_sampler=BatchSampler(Own([8, 0]), 2, True)),
        [0, 8],
    ),
    "one of two": (
        lambda: DataLoader(data, 2, sampler=DistributedSampler(data, num_replicas=2, rank=1, shuffle=False)),
        [1, 3, 5, 7, 9, 11],
    ),
    "several at once": (lambda: DataLoader(Several(), 2, sampler=SubsetRandomSampler([2, 8])), [2, 8]),
    "by name": (lambda: DataLoader(Named(), 2, sampler=Own(["ann", "bo"])), ["ann", "bo"]),
    "with processes": (lambda: DataLoader(data, 2, sampler=Own([4, 1]), num_workers=2), [1, 4]),
}

REFUSED: Mapping[str, tuple[Callable[[], Any], str]] = {
    "weights": (
        lambda: DataLoader(data, 2, sampler=WeightedRandomSampler(12 * [1.0], 12)),
        "WeightedRandomSampler .*rep",
    ),
    "weights and zeros": (
        lambda: DataLoader(data, 2, sampler=WeightedRandomSampler([1.0, 1.0, *10 * [0.0]], 64)),
        "WeightedRandomSampler draws with replacement",
    ),
    "with replacement": (
        lambda: DataLoader(data, 2, sampler=RandomSampler(data, True)),
        "RandomSampler draws with replacement",
    ),
    "some of them": (
        lambda: DataLoader(data, 2, sampler=RandomSampler(data, num_samples=3)),
        "draws num_samples=3 of its examples",
    ),
    "twice": (lambda: DataLoader(data, 2, sampler=Own([1, 2, 1])), r"Own names example 1 more than once in a pass"),
    "twice, once from the end": (lambda: DataLoader(data, 2, sampler=Own([-1, 11])), "names example 11 of its .* once"),
    "twice in a Subset": (lambda: DataLoader(Subset(data, [3, 5, 3]), 2), "names example 3 of its .* more than once"),
    "twice in a Subset of one": (
        lambda: DataLoader(Subset(Subset(data, torch.tensor([3, -1, 11])), [1, 2]), 2, shuffle=True),
        "names example 11 of its .* more than once, .*give every example once",
    ),
    "twice in batches": (lambda: DataLoader(data, batch_sampler=[[1, 2], [2]]), "list names example 2 more than once"),
    "twice in a subset of rows": (
        lambda: DataLoader(data, 2, sampler=SubsetRandomSampler([3, 3])),
        "SubsetRandomSampler names example 3 more than once",
    ),
    "without end": (lambda: DataLoader(data, 2, sampler=Endless()), "Endless names example .* more than once"),
    "others each time": (
        lambda: DataLoader(data, 2, sampler=OtherEachTime()),
        "names other examples from pass to pass",
    ),
    "others in each epoch": (
        lambda: DataLoader(data, 2, sampler=DistributedSampler(data, num_replicas=2, rank=1)),
        "DistributedSampler names other examples from pass to pass",
    ),
    "several at once": (
        lambda: DataLoader(data, 2, sampler=BatchSampler(SequentialSampler(data), 2, False)),
        r"BatchSampler names several examples at once \(\[0, 1\]\)",
    ),
    "tensors of several": (
        lambda: DataLoader(data, 2, sampler=Own(torch.tensor([[4, 1]]))),
        "several examples at once",
    ),
    "nobody": (lambda: DataLoader(data, 2, sampler=Own([])), "Own names no example"),
    "a stream": (lambda: DataLoader(Stream(), 2), "not one over an IterableDataset"),
    "batches of its own": (lambda: DataLoader(data, batch_size=None), r"DataLoader\(batch_size=None\)"),
    "a loader of its own": (lambda: OwnLoader(data, 2), r"OwnLoader.__iter__\(\) would not be used"),
    "a list": (lambda: [[torch.zeros(1)]], "DataLoader over a dataset .*, not a CombinedLoader"),
    "several loaders": (lambda: {"a": DataLoader(data, 2)}, "DataLoader over a dataset .*, not a CombinedLoader"),
}


@pytest.mark.parametrize("name", HONOURED)
def test_a_sampler_that_names_a_fixed_set_is_honoured(name: str) -> None:
    make, rows = HONOURED[name]
    named = rows_of(make())
    assert len(named) == len(rows)
    READ.clear()
    samples = PoissonSamples(make(), RecordPrivacy(1.0, 1.0, 1.0), Noise(), ())
    (batch,) = samples.one_pass()
    assert sorted(READ) == rows
    assert [len(example) for example in batch] == len(rows) * [1]
    assert len(samples) == len(rows)


@pytest.mark.parametrize("rate", [0.1, 0.4])
def test_each_example_is_drawn_by_its_own_coin(rate: float) -> None:
    """Of 4000 coins for an example the share lies within five standard deviations of the rate."""
    loader = DataLoader(data, 2, sampler=SubsetRandomSampler([7, 3, 5]))
    samples = PoissonSamples(loader, RecordPrivacy(1.0, 1.0, rate), Noise(3), ("bob",))
    passes = int(4000 * rate)
    READ.clear()
    steps = [len(sample) for _ in range(passes) for sample in samples.one_pass()]
    assert len(steps) == passes * int(1 / rate)
    assert set(READ) == {3, 5, 7}
    for row in (3, 5, 7):
        assert abs(READ.count(row) / len(steps) - rate) < 5 * (rate * (1 - rate) / len(steps)) ** 0.5
    assert min(steps) == 0
    assert max(steps) == 3, "coins are independent"


@pytest.mark.parametrize("name", REFUSED)
def test_another_sampler_is_refused_in_words(name: str) -> None:
    class Data(pl.LightningDataModule):
        def train_dataloader(self) -> Any:
            return REFUSED[name][0]()

    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Linear(1, 1)

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.net(batch).sum()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=1.0)

    READ.clear()
    privacy = RecordDP(clip=1.0, sampling_rate=0.5, delta=1e-5, noise_multiplier=1.0)
    with pytest.raises(WorkerError, match=REFUSED[name][1]) as refused:
        fit(FederatedModule(Net(), privacy=privacy, engine="sequential"), FederatedDataModule({"bob": Data()}))
    assert "worker 'bob'" in str(refused.value)
    assert READ == []


def test_to_ask_which_rows_there_are_draws_nothing() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    rows_of(DataLoader(data, 2, sampler=SubsetRandomSampler([7, 3, 5])))
    assert torch.equal(torch.rand(3), expected)
