from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    TensorDataset,
    WeightedRandomSampler,
)

from lightning_fed._lightning import CombinedLoader
from lightning_fed.population.batches import IndexedBatches, LoadedBatches, batches_of, examples_per_pass
from lightning_fed.wire import LocalTraining


def dataset(n: int, tensors: int = 2) -> TensorDataset:
    generator = torch.Generator().manual_seed(n)
    kinds = [torch.randn(n, 3, generator=generator), torch.arange(n), torch.rand(n, 2, 2, generator=generator).half()]
    return TensorDataset(*kinds[:tensors])


def drawn(batches: Any, passes: int = 2) -> tuple[list[list[Tensor]], Tensor]:
    """The batches of some passes with what dropout in between would draw, and where the global generator ends."""
    torch.manual_seed(5)
    seen = [[*batch, torch.rand(1)] for _ in range(passes) for batch in batches]
    return seen, torch.get_rng_state()


class Plain:
    """The batches without their sizes."""

    def __init__(self, batches: IndexedBatches) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[list[Tensor]]:
        for batch, size in self.batches:
            assert isinstance(batch, list)
            assert size == len(batch[0])
            yield batch


def assert_same(make: Any) -> None:
    """Two loaders made alike: one drawn from as it is, one through ``batches_of``."""
    loader, batches = make(), batches_of(make())
    assert isinstance(batches, IndexedBatches)
    assert batches.num_batches == len(loader)
    expected, state = drawn(loader)
    seen, state_after = drawn(Plain(batches))
    assert len(seen) == len(expected)
    for ours, theirs in zip(seen, expected, strict=True):
        assert [t.dtype for t in ours] == [t.dtype for t in theirs]
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert torch.equal(state, state_after)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 20),
    batch_size=st.integers(1, 7),
    drop_last=st.booleans(),
    shuffle=st.booleans(),
    generator=st.sampled_from([None, 11]),
    tensors=st.integers(1, 3),
    nested=st.lists(st.lists(st.integers(0, 10**6), min_size=1, max_size=15), max_size=2),
)
def test_the_batches_are_the_loaders_own(
    n: int,
    batch_size: int,
    drop_last: bool,
    shuffle: bool,
    generator: int | None,
    tensors: int,
    nested: list[list[int]],
) -> None:
    def make() -> DataLoader[Any]:
        data: Dataset[Any] = dataset(n, tensors)
        for indices in nested:
            data = Subset(data, [i % len(data) for i in indices])  # type: ignore[arg-type]
        own = None if generator is None else torch.Generator().manual_seed(generator)
        return DataLoader(data, batch_size, shuffle=shuffle, drop_last=drop_last, generator=own)

    assert_same(make)


@pytest.mark.parametrize(
    "indices", [[2, 0, 2], range(1, 4), np.array([3, 1]), torch.tensor([4, 0]), (1, 2), [-1, 0]], ids=repr
)
def test_a_subset_may_be_given_by_indices_of_any_kind(indices: Any) -> None:
    assert_same(lambda: DataLoader(Subset(dataset(5), indices), batch_size=2))


@pytest.mark.parametrize(
    "sampler",
    [
        lambda data: {"sampler": WeightedRandomSampler([1.0, 5.0, 1.0, 0.0, 2.0], 7), "batch_size": 3},
        lambda data: {"sampler": RandomSampler(data, replacement=True, num_samples=9), "batch_size": 2},
        lambda data: {"sampler": [4, 1, 1], "batch_size": 2},
        lambda data: {"batch_sampler": BatchSampler(RandomSampler(data), 2, drop_last=True)},
    ],
    ids=["weighted", "with replacement", "a list", "a batch sampler"],
)
def test_samplers_decide(sampler: Any) -> None:
    data = dataset(5)
    assert_same(lambda: DataLoader(data, **sampler(data)))


def test_examples_are_counted_as_the_sampler_gives_them() -> None:
    data = dataset(5)
    assert batches_of(DataLoader(data, batch_size=2)).num_examples == 5
    assert batches_of(DataLoader(Subset(data, [0, 3]))).num_examples == 2
    assert batches_of(DataLoader(data, sampler=WeightedRandomSampler([1.0] * 5, 12))).num_examples == 12


@pytest.mark.parametrize(("n", "drop_last", "examples", "number"), [(0, False, 0, 0), (3, True, 0, 0), (4, True, 4, 1)])
def test_sizes_tell_of_loaders_without_batches(n: int, drop_last: bool, examples: int, number: int) -> None:
    batches = batches_of(DataLoader(dataset(n), batch_size=4, drop_last=drop_last))
    assert (batches.num_examples, batches.num_batches) == (examples, number)


# ---- everything else goes through the loader -------------------------------------------------------------------------


class Rows(Dataset[Any]):
    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Tensor:
        return torch.tensor([float(index)])


class Augmented(TensorDataset):
    def __getitem__(self, index: Any) -> Any:
        return tuple(t + 100 for t in super().__getitem__(index))


class Part(Subset[Any]):
    def __getitem__(self, index: Any) -> Any:
        return [t + 100 for t in super().__getitem__(index)]

    def __getitems__(self, indices: list[int]) -> Any:
        return [self[index] for index in indices]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Tensor]:
        yield from (torch.tensor([float(i)]) for i in range(5))


class Sampled(BatchSampler):
    """One row less in each batch than a plain batch sampler would give."""

    def __iter__(self) -> Iterator[list[int]]:
        for rows in super().__iter__():
            yield rows[:-1]


class Special(DataLoader[Any]):
    def __iter__(self) -> Any:
        for batch in super().__iter__():
            yield [part + 1 for part in batch]


class Iterated:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@pytest.mark.parametrize(
    ("loader", "examples", "number"),
    [
        (DataLoader(Rows(), batch_size=2), 5, 3),
        (DataLoader(Augmented(torch.arange(5.0)), batch_size=2), 5, 3),
        (DataLoader(Part(dataset(5), [1, 2, 3]), batch_size=2), 3, 2),
        (DataLoader(dataset(5), batch_size=2, collate_fn=lambda rows: [torch.stack([x for x, _ in rows])]), 5, 3),
        (DataLoader(dataset(5), batch_size=None), None, 5),
        (DataLoader(Stream(), batch_size=2), None, None),
        (Special(dataset(5), batch_size=2), 5, 3),
        (Iterated([torch.ones(2), torch.zeros(1)]), None, 2),
    ],
    ids=["own dataset", "transforms", "own subset", "collate", "no batching", "stream", "own loader", "iterable"],
)
def test_other_loaders_give_what_they_give(loader: Any, examples: int | None, number: int | None) -> None:
    batches = batches_of(loader)
    assert isinstance(batches, LoadedBatches)
    assert (batches.num_examples, batches.num_batches) == (examples, number)
    seen = [batch for batch, _ in batches]
    torch.testing.assert_close(seen, list(loader), rtol=0, atol=0)


def test_a_batch_sampler_of_ones_own_is_asked() -> None:
    loader = DataLoader(dataset(6), batch_sampler=Sampled(SequentialSampler(range(6)), 3, drop_last=False))
    assert [batch[1].tolist() for batch, _ in batches_of(loader)] == [[0, 1], [3, 4]]


@pytest.mark.parametrize("kind", [dict, list, tuple])
def test_several_loaders_are_combined_and_the_shorter_one_cycles(kind: type) -> None:
    loaders = {"a": DataLoader(dataset(4), batch_size=2), "b": DataLoader(dataset(3), batch_size=1)}
    batches = batches_of(loaders if kind is dict else kind(loaders.values()))
    keys: list[Any] = ["a", "b"] if kind is dict else [0, 1]
    seen = [[len(batch[key][0]) for key in keys] for batch, _ in batches]
    assert seen == [[2, 1]] * 3
    assert (batches.num_examples, batches.num_batches) == (4, 3)
    assert len(list(batches)) == 3


@pytest.mark.parametrize("thing", [None, 3, object()])
def test_what_is_no_loader_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match=f"returned a {type(thing).__name__}, which is no iterable of batches"):
        batches_of(thing)


# ---- seeds -----------------------------------------------------------------------------------------------------------


def _collated(rows: list[Any]) -> Tensor:
    return torch.stack([n for _, n in rows])


@pytest.mark.parametrize("collate", [None, _collated], ids=["indexed", "loaded"])
@pytest.mark.parametrize("generator", ["loader", "sampler", "none"])
def test_the_order_is_a_function_of_the_seed(generator: str, collate: Any) -> None:
    data, own = dataset(12), torch.Generator()
    options: dict[str, Any] = {
        "loader": {"shuffle": True, "generator": own},
        "sampler": {"sampler": RandomSampler(data, generator=own)},
        "none": {"shuffle": True},
    }[generator]
    batches = batches_of(DataLoader(data, batch_size=5, collate_fn=collate, **options))

    def order(seed: int) -> list[int]:
        torch.manual_seed(seed)  # what the engine does
        batches.reseed(seed)
        return [int(n) for batch, _ in batches for n in (batch if collate else batch[1])]

    first, other, again = order(1), order(2), order(1)
    assert first == again != other
    assert sorted(first) == list(range(12))


def test_every_part_of_a_combined_loader_is_reseeded() -> None:
    parts = [DataLoader(dataset(9), batch_size=9, shuffle=True, generator=torch.Generator()) for _ in range(2)]
    batches = batches_of(parts)

    def order() -> list[Any]:
        batches.reseed(3)
        return [part[1].tolist() for batch, _ in batches for part in batch]

    assert order() == order()


# ---- counts ----------------------------------------------------------------------------------------------------------


class Named(BatchSampler):
    """Batches as they are, under another name."""


@pytest.mark.parametrize(
    ("make", "examples"),
    [
        (lambda data: DataLoader(data, batch_sampler=BatchSampler([0, 3, 4], 2, drop_last=False)), 3),
        (lambda data: DataLoader(data, batch_sampler=Named([0, 3, 4], 2, drop_last=False)), 3),
        (lambda data: DataLoader(data, batch_sampler=Sampled([0, 3, 4, 1], 2, drop_last=False)), None),
        (lambda data: DataLoader(data, batch_sampler=[[0, 1], [2]]), None),
        (lambda data: DataLoader(data, batch_size=2, drop_last=True), 4),
        (lambda data: DataLoader(data, batch_size=2, sampler=[1, 1, 1, 1, 1, 1, 2], drop_last=True), 6),
        (lambda data: CombinedLoader([DataLoader(data, 2), DataLoader(dataset(2))], "max_size_cycle"), 5),
        (lambda data: CombinedLoader([DataLoader(data, 2), DataLoader(dataset(2))], "min_size"), 4),
        (lambda data: CombinedLoader([DataLoader(data, 2), DataLoader(Stream())], "max_size_cycle"), None),
    ],
)
def test_examples_are_those_that_a_pass_gives(make: Any, examples: int | None) -> None:
    batches = batches_of(make(dataset(5)))
    assert batches.num_examples == examples
    if batches.num_batches is not None:
        assert len(list(batches)) == batches.num_batches


@pytest.mark.parametrize(
    ("batches", "number", "is_whole", "examples"),
    [
        ([], 2, True, 0.0),
        ([(0, 4), (1, 2)], None, True, 6.0),
        ([(0, 4), (1, 2), (0, 4)], None, False, 6.0),  # the pass that was cut short does not count
        ([(0, 4), (1, 2), (0, 4), (1, 4)], 2, False, 7.0),  # both were whole, though nobody saw the second one's end
        ([(0, 4)], 3, False, 12.0),
        ([(0, 4)], None, False, 4.0),
    ],
)
def test_examples_of_a_pass_by_those_that_were_seen(
    batches: list[tuple[int, int]], number: int | None, is_whole: bool, examples: float
) -> None:
    assert examples_per_pass(batches, number, is_whole) == examples


# ---- rounds ----------------------------------------------------------------------------------------------------------


class Noisy(Dataset[Any]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return torch.rand(1)


def test_processes_that_persist_begin_every_round_anew() -> None:
    loader = DataLoader(Noisy(), num_workers=1, persistent_workers=True)
    batches = batches_of(loader)

    def round_of(seed: int) -> list[float]:
        torch.manual_seed(seed)
        batches.reseed(seed)
        return [batch.item() for _ in range(2) for batch, _ in batches]

    first, other, again = round_of(1), round_of(2), round_of(1)
    assert first == again != other
    assert len(set(first)) == 4
    (process,) = loader._iterator._workers  # type: ignore[union-attr]
    batches.rest()
    assert not process.is_alive()


class Gone(Dataset[Any]):
    gone = True

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        if self.gone:
            raise OSError("disk gone")
        return torch.rand(1)


@pytest.mark.parametrize("combined", [False, True])
@pytest.mark.parametrize("persist", [False, True])
def test_a_pass_that_failed_leaves_no_process(persist: bool, combined: bool) -> None:
    loaders = [DataLoader(Gone(), num_workers=1, persistent_workers=persist) for _ in range(2)]
    batches = batches_of(CombinedLoader(loaders) if combined else loaders[0])
    before = set(multiprocessing.active_children())  # of an engine that tests share
    with pytest.raises(OSError, match="disk gone"):
        list(batches)
    assert set(multiprocessing.active_children()) == before
    for loader in loaders:
        loader.dataset.gone = False  # type: ignore[attr-defined]
    assert len(list(batches)) == 4
    batches.rest()
    assert set(multiprocessing.active_children()) == before


class Counted(SequentialSampler):
    def __init__(self, source: Any) -> None:
        super().__init__(source)
        self.epochs: list[int] = []

    def set_epoch(self, epoch: int) -> None:
        self.epochs.append(epoch)


@pytest.mark.parametrize("place", ["sampler", "batch sampler", "loaded", "combined"])
def test_samplers_are_told_the_number_of_the_pass(place: str) -> None:
    data = dataset(4)
    sampler = Counted(data)
    batch_sampler = BatchSampler(sampler, 2, drop_last=False)
    options: dict[str, Any] = {"batch_sampler": batch_sampler} if place == "batch sampler" else {"sampler": sampler}
    loader: Any = DataLoader(data, **options, collate_fn=_collated if place == "loaded" else None)
    batches = batches_of([loader] if place == "combined" else loader)
    for cohort in (0, 1, 3):
        batches.reseed(0, batches.first_epoch(cohort, LocalTraining(epochs=2)))
        assert [len(list(batches)) for _ in range(2)] == [batches.num_batches] * 2
    assert sampler.epochs == [0, 1, 2, 3, 6, 7]


def test_with_steps_passes_are_counted_as_far_as_they_are_begun() -> None:
    batches = batches_of(DataLoader(dataset(4), batch_size=2))
    assert [batches.first_epoch(cohort, LocalTraining(steps=3)) for cohort in range(3)] == [0, 2, 4]
    assert batches_of(DataLoader(Stream())).first_epoch(3, LocalTraining(steps=3)) == 3
