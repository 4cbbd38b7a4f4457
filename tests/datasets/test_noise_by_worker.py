from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl
from lightning_fed.datasets import IID, NoiseByWorker, PartitionedPopulation, SplitSubsetDataModule
from lightning_fed.models import MLPClassifier
from lightning_fed.population.batches import IndexedBatches, batches_of
from tests.helpers import assert_equal, fit

ZEROS = TensorDataset(torch.zeros(2000, 20), torch.arange(2000))


class Plain(Dataset[Any]):
    """The examples of a TensorDataset, one by one."""

    def __init__(self, *tensors: Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> list[Tensor]:
        return [tensor[index] for tensor in self.tensors]


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


class Other(Dataset[Any]):
    """Two times the same example."""

    def __init__(self, example: Any) -> None:
        self.example = example

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Any:
        return self.example


def noisy(
    dataset: Any = ZEROS, workers: int = 4, std: float = 0.1, seed: int | None = 0, **options: Any
) -> NoiseByWorker:
    return NoiseByWorker(PartitionedPopulation(dataset, IID(workers), **options), std, seed)


def examples(dataset: Dataset[Any]) -> dict[int, Tensor]:
    """The inputs by their label, which is their number."""
    return {int(dataset[i][1]): dataset[i][0] for i in range(len(dataset))}  # type: ignore[arg-type]


def test_the_last_worker_has_all_of_the_noise_and_the_others_their_part() -> None:
    workers = noisy()
    stds = [torch.stack([*examples(workers[name].train_set).values()]).std() for name in workers]
    # 10,000 numbers at each: the estimate has a deviation of 0.7 %.
    assert stds == pytest.approx([0.025, 0.05, 0.075, 0.1], rel=0.03)


def test_one_worker_has_all_of_it_and_a_std_of_zero_adds_nothing() -> None:
    x = torch.stack([*examples(noisy(workers=1)["worker_0"].train_set).values()])
    assert (float(x.mean()), float(x.std())) == (pytest.approx(0, abs=0.002), pytest.approx(0.1, rel=0.03))
    for name in (clean := noisy(std=0.0)):
        assert all(not x.any() for x in examples(clean[name].train_set).values())


def test_an_examples_noise_depends_on_its_number_and_the_seed_only() -> None:
    few, many = noisy(workers=1), noisy(workers=4)
    alone = examples(few["worker_0"].train_set)
    for position, name in enumerate(many):
        for number, x in examples(many[name].train_set).items():
            torch.testing.assert_close(x, alone[number] * (position + 1) / 4)
    assert len({tuple(x.tolist()) for x in alone.values()}) == 2000
    again, other = (examples(noisy(workers=1, seed=seed)["worker_0"].train_set) for seed in (0, 1))
    assert all(torch.equal(alone[number], again[number]) for number in alone)
    assert not any(torch.equal(alone[number], other[number]) for number in alone)
    pl.seed_everything(1, verbose=False)
    assert torch.equal(examples(noisy(workers=1, seed=None)["worker_0"].train_set)[7], other[7])


def test_a_dataset_that_is_read_example_by_example_has_the_same_noise() -> None:
    x = torch.randn(40, 3, 5)
    tensors, plain = (noisy(kind(x, torch.arange(40))) for kind in (TensorDataset, Plain))
    for name in tensors:
        ours, same = examples(plain[name].train_set), examples(tensors[name].train_set)
        assert ours.keys() == same.keys()
        assert all(torch.equal(ours[number], same[number]) for number in same)


def test_an_example_stays_of_its_kind() -> None:
    x, y = torch.zeros(3), torch.tensor(1)
    kinds = [type(noisy(Other(example), 1)["worker_0"].train_set[0]) for example in ((x, y), [x, y], Pair(x, y))]
    assert kinds == [tuple, list, Pair]


def test_batches_of_tensors_are_indexed() -> None:
    assert isinstance(batches_of(noisy()["worker_2"].train_dataloader()), IndexedBatches)


def test_what_is_held_out_is_as_noisy_and_stays_what_it_was() -> None:
    clean, workers = PartitionedPopulation(ZEROS, IID(4), val_fraction=0.5), noisy(val_fraction=0.5)
    assert (workers.has_loader("val"), workers.has_loader("test")) == (True, False)
    worker, source = workers["worker_3"], clean["worker_3"]
    assert isinstance(worker, SplitSubsetDataModule)
    assert isinstance(source, SplitSubsetDataModule)
    assert workers.num_examples("worker_3") == len(worker.train_set) == 250
    held_out = torch.cat([x for x, _ in worker.val_dataloader()])
    assert float(held_out.std()) == pytest.approx(0.1, rel=0.05)
    assert examples(worker.val_set).keys() == examples(source.val_set).keys()


def test_delegates_to_the_population_and_pickles() -> None:
    workers = noisy()
    assert (len(workers), [*workers], workers.name(2)) == (4, [f"worker_{i}" for i in range(4)], "worker_2")
    assert ("worker_3" in workers, "worker_4" in workers) == (True, False)
    assert workers == workers != noisy()
    assert workers.label_counts().counts.sum() == 2000
    assert workers.seed == 0
    again = pickle.loads(pickle.dumps(workers))
    assert torch.equal(again["worker_1"].train_set[3][0], workers["worker_1"].train_set[3][0])
    with pytest.raises(KeyError, match="worker_0"):
        workers["bob"]


def test_engines_see_the_same_noise(double: None) -> None:
    torch.manual_seed(0)
    dataset = TensorDataset(torch.randn(200, 8), torch.arange(200) % 3)

    def trained(engine: str, std: float) -> dict[str, Tensor]:
        pl.seed_everything(0, verbose=False)
        fed = FederatedModule(MLPClassifier(in_features=8, hidden=[4], classes=3), engine=engine)
        workers = noisy(dataset, 5, std, batch_size=16, val_fraction=0.2)
        fit(fed, FederatedDataModule(workers), max_epochs=2)
        return dict(fed.state_dict())

    sequential = trained("sequential", 0.5)
    assert_equal(trained("vectorized", 0.5), sequential)
    clean = trained("sequential", 0.0)
    assert any(not torch.allclose(sequential[key], clean[key], atol=1e-3) for key in clean)


def test_repr() -> None:
    source = PartitionedPopulation(ZEROS, IID(4))
    assert repr(NoiseByWorker(source, 0.2)) == f"NoiseByWorker({source!r}, std=0.2)"
    assert repr(NoiseByWorker(source, seed=3)) == f"NoiseByWorker({source!r}, std=0.1, seed=3)"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (TensorDataset(torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2)), r"inputs are torch.uint8, .* convert"),
        (Other((torch.zeros(3, dtype=torch.int64), 0)), "inputs are torch.int64, and noise is added to tensors"),
        (Other(("text", 0)), "inputs are str"),
        (Other({"x": torch.zeros(3)}), r"noise is added to the first part of an example \(x, \.\.\.\), not {'x'"),
    ],
)
def test_inputs_without_room_for_noise_are_refused(dataset: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        noisy(dataset, workers=1)["worker_0"].train_set[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"std": -0.1}, "std=-0.1: give a finite number of at least 0"), ({"seed": -1}, "seed=-1")],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        noisy(**arguments)
