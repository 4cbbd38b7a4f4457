from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_fed.datasets import Dirichlet, LabelsPerWorker, Partition

DIGITS = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 600))


def kinds(labels: NDArray[Any], partition: Partition) -> list[dict[Any, int]]:
    """How many examples of which label each worker has."""
    return [dict(sorted(Counter(labels[part].tolist()).items())) for part in partition]


def shares(monkeypatch: pytest.MonkeyPatch, *drawn: list[float]) -> None:
    """Let these proportions be drawn, one for each class, and then again from the first."""
    left: list[list[float]] = []

    def next_one(self: Dirichlet, rng: np.random.Generator) -> NDArray[np.float64]:
        left.extend(drawn if not left else ())
        return np.array(left.pop(0))

    monkeypatch.setattr(Dirichlet, "_shares", next_one)


# Exactly k labels


def test_a_worker_of_one_label_has_the_one_of_its_own_place() -> None:
    # Worker 3 has the first label again; its 5 examples are cut 3 and 2, the first holder has one more.
    labels = np.array([7, 7, 7, 7, 7, 8, 8, 9])
    dealt = LabelsPerWorker(workers=4, labels=1)(labels)
    assert kinds(labels, dealt) == [{7: 3}, {8: 2}, {9: 1}, {7: 2}]


def test_workers_that_hold_all_labels_share_each_evenly() -> None:
    # NIID-Bench cuts every class by np.array_split: 5 among 3 workers are 2, 2 and 1, and 4 are 2, 1 and 1.
    labels = np.array(["a"] * 5 + ["b"] * 4)
    dealt = LabelsPerWorker(workers=3, labels=2)(labels)
    assert kinds(labels, dealt) == [{"a": 2, "b": 2}, {"a": 2, "b": 1}, {"a": 1, "b": 1}]


def test_one_worker_of_all_labels_has_everything() -> None:
    assert kinds(DIGITS, LabelsPerWorker(workers=1, labels=10)(DIGITS)) == [dict.fromkeys(range(10), 600)]


def test_as_many_workers_as_labels() -> None:
    one_each = LabelsPerWorker(workers=10, labels=1)(DIGITS)
    assert kinds(DIGITS, one_each) == [{label: 600} for label in range(10)]


def test_the_first_label_is_certain_and_the_others_are_as_likely_as_each_other() -> None:
    labels = np.tile(np.arange(5), 60_000)
    held = [set(counts) for counts in kinds(labels, LabelsPerWorker(workers=50_000, labels=3)(labels))]
    assert all(len(ones) == 3 and worker % 5 in ones for worker, ones in enumerate(held))
    pairs = Counter(tuple(sorted((label - worker) % 5 for label in ones)) for worker, ones in enumerate(held))
    # Beside their own (0) the workers have one of the six pairs of 1, 2, 3, 4: binomial with a deviation of 83.
    assert {(0, *pair): 1 for pair in ((1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4))}.keys() == pairs.keys()
    assert all(abs(count - 50_000 / 6) < 4 * 83 for count in pairs.values())


def test_examples_of_a_label_are_shuffled_before_they_are_cut() -> None:
    first = LabelsPerWorker(workers=2, labels=1)(np.repeat([0, 1], 500))[0]
    assert sorted(first.tolist()) == list(range(500)) != first.tolist()


@settings(deadline=None, max_examples=100)
@given(
    sizes=st.lists(st.integers(20, 40), min_size=1, max_size=6),
    workers=st.integers(1, 20),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_exactly_k_labels_and_each_cut_evenly(sizes: list[int], workers: int, seed: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(sizes)))
    assume(workers >= len(sizes) or k == len(sizes))
    labels = np.repeat(np.arange(len(sizes)), sizes)
    partitioner = LabelsPerWorker(workers, k, seed)
    dealt = partitioner(labels)
    counts = kinds(labels, dealt)
    assert sorted(dealt.indices.tolist()) == list(range(len(labels)))
    assert all(len(ones) == k for ones in counts)
    for label in range(len(sizes)):
        cuts = [ones[label] for ones in counts if label in ones]
        assert max(cuts) - min(cuts) <= 1
    assert dealt.indices.tolist() == partitioner(labels).indices.tolist()


def test_the_labels_of_another_seed_are_others() -> None:
    held = {str([sorted(ones) for ones in kinds(DIGITS, LabelsPerWorker(10, 2, seed)(DIGITS))]) for seed in range(10)}
    assert len(held) == 10


# Dirichlet where a worker that has its share gets no more


def test_capped_proportions_are_rounded_down_and_the_rest_goes_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    # The cuts of 7 lie at 3.5 and 5.6: 3 and 5.
    shares(monkeypatch, [0.5, 0.3, 0.2])
    assert Dirichlet(3, 1.0, capped=True)(np.zeros(7)).sizes().tolist() == [3, 2, 2]


def test_a_worker_that_has_its_share_gets_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    # 16 examples, 8 for each of the two. Classes of 6 and 5: 5 and 1, then 4 and 1; 9 are enough, so the last 5 go to
    # the other one.
    labels = np.repeat([0, 1, 2], [6, 5, 5])
    shares(monkeypatch, *[[0.9, 0.1]] * 3)
    assert kinds(labels, Dirichlet(2, 1.0, capped=True)(labels)) == [{0: 5, 1: 4}, {0: 1, 1: 1, 2: 5}]


def test_a_share_that_is_just_reached_is_enough_and_those_left_are_scaled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # 12 examples of three workers: the first has 4 after one class. Then 0.2 and 0.6 of the other two are 1/4 and 3/4.
    labels = np.repeat([0, 1], [4, 8])
    shares(monkeypatch, [1.0, 0.0, 0.0], [0.2, 0.2, 0.6])
    assert kinds(labels, Dirichlet(3, 1.0, capped=True)(labels)) == [{0: 4}, {1: 2}, {1: 6}]


def test_where_all_proportions_fall_to_workers_that_are_full_the_others_share_evenly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = np.repeat([0, 1], [4, 8])
    shares(monkeypatch, [1.0, 0.0, 0.0])
    assert kinds(labels, Dirichlet(3, 1.0, capped=True)(labels)) == [{0: 4}, {1: 4}, {1: 4}]


def test_capped_draws_anew_until_all_are_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    shares(monkeypatch, *[[0.95, 0.05]] * 30, [0.6, 0.4])  # more often than without the cap
    assert Dirichlet(2, 1.0, min_size=10, capped=True)(np.zeros(100)).sizes().tolist() == [60, 40]


def test_capped_sizes_differ_less() -> None:
    free, capped = (
        [Dirichlet(10, 0.5, 10, seed, capped)(DIGITS).sizes() for seed in range(20)] for capped in (False, True)
    )
    assert np.std(capped) < 0.7 * np.std(free)
    # Who has less than an even share of 600 gets one whole class of 600 more, at most.
    assert np.max(capped) < 1200 < np.max(free)
