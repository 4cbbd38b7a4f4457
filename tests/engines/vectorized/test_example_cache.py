from __future__ import annotations

import gc
import weakref

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_fed.engines.vectorized.example_cache import ExampleCache
from lightning_fed.population.batches import IndexedBatches, batches_of

CPU = torch.device("cpu")


def worker(rows: int, start: float = 0.0, width: int = 2, dtype: torch.dtype = torch.float32) -> IndexedBatches:
    x = (start + torch.arange(rows * width).view(rows, width)).to(dtype)
    batches = batches_of(DataLoader(TensorDataset(x, torch.arange(rows)), batch_size=2))
    assert isinstance(batches, IndexedBatches)
    return batches


def kept(store: ExampleCache, workers: list[IndexedBatches]) -> list[list[Tensor]]:
    offsets = store.offsets(workers)
    assert offsets is not None
    return [
        [tensor[offset : offset + len(w.tensors[0])] for tensor in store.tensors]
        for w, offset in zip(workers, offsets, strict=True)
    ]


def assert_holds(store: ExampleCache, workers: list[IndexedBatches]) -> None:
    for tensors, w in zip(kept(store, workers), workers, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(tensors, w.tensors, strict=True))


def test_rows_are_kept_in_place_while_others_come() -> None:
    store = ExampleCache(CPU)
    a, b, c = worker(3), worker(5, 100.0), worker(2000, 500.0)
    assert_holds(store, [a, b])
    first = store.offsets([b, a])
    assert_holds(store, [b, c])  # grows beyond the first 1024 rows
    assert_holds(store, [c, a, b])
    assert store.offsets([b, a]) == first


def test_a_full_store_forgets_all_and_begins_again() -> None:
    store = ExampleCache(CPU, budget=100 * 16)  # a row is two float32 and an int64
    workers = [worker(40, 1000.0 * i) for i in range(5)]
    for i in range(4):
        assert_holds(store, workers[i : i + 2])
    assert len(store.tensors[0]) <= 1024
    assert store.offsets([worker(101)]) is None
    assert_holds(store, workers[:2])


def test_rows_that_do_not_go_together_are_left_where_they_are() -> None:
    store = ExampleCache(CPU)
    assert store.offsets([worker(3), worker(3, width=5)]) is None
    assert store.offsets([worker(3), worker(3, dtype=torch.float64)]) is None
    assert_holds(store, [worker(3)])
    assert store.offsets([worker(3, width=5)]) is None


def test_on_a_cpu_large_workers_are_left_where_they_are() -> None:
    assert ExampleCache(CPU).offsets([worker(2000, width=20)]) is None


def test_workers_beyond_a_number_are_forgotten() -> None:
    """A population of a million would otherwise be kept alive, worker by worker, as it is seen."""
    store = ExampleCache(CPU, most=4)
    seen = [worker(2) for _ in range(6)]
    refs = [weakref.ref(each) for each in seen]
    for first in (0, 2, 4):
        pair = seen[first : first + 2]
        places = store.offsets(pair)
        assert places is not None
        for place, own in zip(places, pair, strict=True):
            torch.testing.assert_close(store.tensors[0][place : place + 2], own.tensors[0], rtol=0, atol=0)
    del seen, pair, own
    gc.collect()
    assert [ref() is None for ref in refs] == [True, True, True, True, False, False]
