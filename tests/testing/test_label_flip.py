"""Flipped labels: those of the attackers, to train on, whatever the data are given as, and nothing else."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from helpers import fit
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule, Population
from lightning_fed._lightning import CombinedLoader, pl
from lightning_fed.datasets import IID, PartitionedPopulation
from lightning_fed.population import EvaluationKind, WorkerPool
from lightning_fed.testing.attacks import LabelFlip

FLIP = LabelFlip(classes=4)
X, Y = torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 2, 3, 0, 2])
FLIPPED = [3, 2, 1, 0, 3, 1]


class Examples(Dataset[Any]):
    """Examples that are no tensors."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index], int(Y[index])


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(zip(X, Y, strict=True))


class StreamOfLength(Stream):
    def __len__(self) -> int:
        return len(X)


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Data(pl.LightningDataModule):
    """A datamodule whose loader needs ``setup``, with validation data."""

    def setup(self, stage: str) -> None:
        self.examples = TensorDataset(X, Y)

    def train_dataloader(self) -> Any:
        return DataLoader(self.examples, batch_size=4)

    def val_dataloader(self) -> Any:
        return DataLoader(self.examples, batch_size=6)


class Several(Data):
    def train_dataloader(self) -> Any:
        return [super().train_dataloader()]


def labels(data: Any) -> list[int]:
    """The labels of a pass over a worker's training data."""
    pool = WorkerPool(FederatedDataModule({"bob": data}, batch_size=6).pool.population, capacity=1)
    found: list[Tensor] = []
    for batch, _ in pool["bob"].batches:
        while isinstance(batch, list) and isinstance(batch[0], list):
            batch = batch[0]
        found.append(torch.as_tensor(batch["y"] if isinstance(batch, dict) else batch[-1]))
    return torch.cat(found).tolist()


GIVEN: dict[str, Any] = {
    "tensors": (X, Y),
    "arrays": [X.numpy(), Y.numpy()],
    "a dataset of tensors": TensorDataset(X, Y),
    "a part of one": Subset(TensorDataset(torch.cat([X, X]), torch.cat([Y, Y])), list(range(6, 12))),
    "a dataset": Examples(),
    "a loader": DataLoader(TensorDataset(X, Y), batch_size=4),
    "a loader of a dataset": DataLoader(Examples(), batch_size=4),
    "a loader of a stream": DataLoader(Stream(), batch_size=4),
    "batches": [(X[:3], Y[:3]), (X[3:], Y[3:])],
    "parts": {"train": (X, Y), "val": (X, Y)},
    "a datamodule": Data(),
    "a datamodule of several loaders": Several(),
}
GIVEN["batches"] = type("Batches", (), {"__iter__": lambda _, batches=GIVEN["batches"]: iter(batches)})()

given = pytest.mark.parametrize("data", GIVEN.values(), ids=GIVEN)


@given
def test_the_attackers_labels_are_flipped_and_what_was_given_is_not(data: Any) -> None:
    before = {"bob": data, "alice": data}
    after = FLIP.poison(before, ["bob"])
    assert list(after) == ["bob", "alice"]
    assert after["alice"] is data
    assert before["bob"] is data
    assert labels(after["bob"]) == FLIPPED
    assert labels(data) == Y.tolist()


def test_a_field_of_another_name_and_place() -> None:
    fields = {"y": Y, "x": X}
    assert labels(LabelFlip(classes=4, label="y").poison({"bob": fields}, ["bob"])["bob"]) == FLIPPED
    flipped = LabelFlip(classes=4, label=0).poison({"bob": (Y, X)}, ["bob"])["bob"]
    assert flipped[0].tolist() == FLIPPED
    assert flipped[1] is X


def test_an_example_stays_of_its_kind() -> None:
    kinds = [type(FLIP.flip(example)) for example in ((X, Y), [X, Y], Pair(X, Y))]
    assert kinds == [tuple, list, Pair]
    assert FLIP.flip(Pair(X, Y)).y.tolist() == FLIPPED
    assert LabelFlip(classes=4, label=1).flip(Pair(X, Y)).x is X


def test_a_stream_has_the_length_that_it_had() -> None:
    assert len(FLIP.loader(DataLoader(StreamOfLength(), batch_size=4))) == 2
    with pytest.raises(TypeError, match="Stream has no length"):
        len(FLIP.loader(DataLoader(Stream(), batch_size=4)))


def test_two_classes_may_be_floats() -> None:
    y = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert LabelFlip(classes=2).flip((X[:2], y))[1].tolist() == [[1, 0], [0, 1]]
    assert LabelFlip(classes=2).flip((X[:2], y.bfloat16()))[1].tolist() == [[1, 0], [0, 1]]


def test_labels_in_a_list_stay_in_one() -> None:
    assert FLIP.flip(([0.5], [0, 1, 3]))[1] == [3, 2, 0]
    with pytest.raises(TypeError, match="cannot be flipped"):
        FLIP.flip(([0.5], ["cat"]))


def test_data_to_evaluate_on_stay() -> None:
    poisoned = FLIP.poison({"bob": Data(), "ann": {"train": (X, Y), "val": (X, Y)}}, ["bob", "ann"])
    data = FederatedDataModule(poisoned)
    for name in ("bob", "ann"):
        (loader,) = data.pool[name].evaluation_loaders("val")
        assert torch.cat([y for _, y in loader]).tolist() == Y.tolist()


@pytest.mark.parametrize("name", ["a datamodule", "a dataset", "a loader"])
def test_they_can_be_copied_and_sent_to_another_process(name: str) -> None:
    poisoned = FLIP.poison({"bob": GIVEN[name]}, ["bob"])["bob"]
    for other in (pickle.loads(pickle.dumps(poisoned)), copy.deepcopy(poisoned)):
        assert labels(other) == FLIPPED
    assert labels(poisoned) == FLIPPED


def test_processes_that_a_loader_keeps_are_not_shared() -> None:
    """They would go on to give what they were started with."""
    loader = DataLoader(Examples(), batch_size=4)
    loader._iterator = iter(loader)
    assert FLIP.loader(loader)._iterator is None
    assert loader._iterator is not None


# ---- populations ----------------------------------------------------------------------------------------------------


class Lazy(Population):
    """Builds what it is asked for, and counts that."""

    def __init__(self) -> None:
        self.built: list[str] = []

    def __len__(self) -> int:
        return 1_000

    def name(self, position: int) -> str:
        return f"w{position}"

    def __getitem__(self, name: str) -> Any:
        self.built.append(name)
        return Data()

    def num_examples(self, name: str) -> int:
        return 6

    def has_loader(self, kind: EvaluationKind) -> bool:
        return kind == "val"


def test_a_population_stays_lazy() -> None:
    lazy = Lazy()
    poisoned = FLIP.poison(lazy, ["w7", "w999"])
    assert lazy.built == []
    assert len(poisoned) == 1_000
    assert (poisoned.name(3), poisoned.num_examples("w7"), poisoned.has_loader("val")) == ("w3", 6, True)
    assert labels(poisoned["w7"]) == FLIPPED
    assert labels(poisoned["w8"]) == Y.tolist()
    assert lazy.built == ["w7", "w8"]


def test_a_partition_is_dealt_as_before() -> None:
    plain = PartitionedPopulation((X, Y), IID(workers=2, seed=5), batch_size=3)
    poisoned = FLIP.poison(plain, ["worker_1"])
    assert "worker_1" in poisoned
    assert "worker_2" not in poisoned
    kept = ("seed", "draws_nothing", "gives_datamodules", "most_examples")
    assert [getattr(poisoned, name) for name in kept] == [getattr(plain, name) for name in kept]
    assert set(labels(poisoned["worker_0"])) == set(labels(plain["worker_0"]))
    assert sorted(labels(poisoned["worker_1"])) == sorted(3 - y for y in labels(plain["worker_1"]))


# ---- in training ----------------------------------------------------------------------------------------------------


class Net(pl.LightningModule):
    """Two layers for four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 4)).double()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trained(workers: Any, engine: Any) -> Tensor:
    pl.seed_everything(0, verbose=False)
    federated = FederatedModule(Net(), engine=engine)
    fit(federated, FederatedDataModule(workers, batch_size=2, seed=0), max_steps=3)
    return torch.cat([p.detach().flatten() for p in federated.module.parameters()])


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_training_is_that_on_flipped_labels_bit_for_bit(engine: Any) -> None:
    x = X.double()
    honest, by_hand = {"a": (x, Y), "b": (x + 1, Y)}, {"a": (x, Y), "b": (x + 1, 3 - Y)}
    attacked = FLIP.poison(honest, ["b"])
    assert torch.equal(trained(attacked, engine), trained(by_hand, engine))
    assert not torch.equal(trained(attacked, engine), trained(honest, engine))


@pytest.mark.parametrize("engine", ["sequential", "vectorized"])
def test_batches_are_drawn_as_by_a_worker_with_these_labels(engine: Any) -> None:
    def population(y: Tensor) -> PartitionedPopulation:
        return PartitionedPopulation((X.double(), y), IID(workers=2), batch_size=2)

    both = FLIP.poison(population(Y), ["worker_0", "worker_1"])
    assert torch.equal(trained(both, engine), trained(population(3 - Y), engine))


# ---- refusals -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "kind", "message"),
    [
        ((X, Y + 1), ValueError, r"workers\['bob'\]: labels lie in 1..4, but classes=4 are 0..3"),
        ((X, Y - 1), ValueError, r"labels lie in -1..2, but classes=4 are 0..3"),
        ((X, Y.double()), TypeError, "labels of float64 cannot be flipped; give whole numbers from 0 to 3"),
        (
            {"x": X, "y": Y},
            TypeError,
            r"a dict has no label at -1; say where it is, as by LabelFlip\(..., label=\"y\"\)",
        ),
        (3, TypeError, "labels of an int cannot be flipped; give a DataLoader"),
        (CombinedLoader([DataLoader(Examples())]), TypeError, "labels of a CombinedLoader cannot be flipped"),
    ],
)
def test_labels_that_cannot_be_flipped(data: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        FLIP.poison({"bob": data}, ["bob"])


def test_a_label_of_an_example_that_is_none_is_refused_when_it_is_read() -> None:
    with pytest.raises(ValueError, match=r"labels lie in 2..2, but classes=2 are 0..1"):
        labels(LabelFlip(classes=2).poison({"bob": Examples()}, ["bob"])["bob"])


def test_a_position_beyond_the_example() -> None:
    with pytest.raises(TypeError, match="a tuple has no label at 2"):
        LabelFlip(classes=4, label=2).flip((X, Y))


@pytest.mark.parametrize(
    ("workers", "attackers", "kind", "message"),
    [
        ({"bob": (X, Y)}, ["bobb"], ValueError, "attackers has 'bobb', which is no worker; did you mean 'bob'"),
        ({"bob": (X, Y)}, "bob", TypeError, "attackers='bob' must be a list of names"),
        ({"bob": (X, Y)}, [], ValueError, "attackers is empty"),
        ([(X, Y)], ["bob"], TypeError, "workers must be a dict or a Population, not a list"),
    ],
)
def test_wrong_workers(workers: Any, attackers: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        FLIP.poison(workers, attackers)


def test_workers_elsewhere_are_flipped_elsewhere() -> None:
    class Elsewhere(Lazy):
        lies_elsewhere = True

    with pytest.raises(ValueError, match="workers lie on other machines: flip labels there"):
        FLIP.poison(Elsewhere(), ["w1"])


def test_arrays_of_small_integers() -> None:
    assert FLIP.flip((X.numpy(), np.array([0, 3], dtype=np.uint8)))[1].tolist() == [3, 0]
    assert FLIP.flip([X, Y.to(torch.uint8)])[1].tolist() == FLIPPED
