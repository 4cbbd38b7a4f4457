from __future__ import annotations

import pickle
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lightning_fed.datasets import (
    IID,
    Dirichlet,
    DirichletSizes,
    LabelsPerWorker,
    LogNormal,
    NaturalIds,
    Partition,
    Partitioner,
    Shards,
    label_skew,
    partitioners,
)

LABELS = np.random.default_rng(0).integers(0, 10, 60_000)


def parts(partition: Partition) -> list[list[int]]:
    return [part.tolist() for part in partition]


# By hand


def test_iid_sizes_differ_by_at_most_one() -> None:
    assert sorted(IID(4)(np.zeros(10)).sizes().tolist()) == [2, 2, 3, 3]


def test_shards_deal_whole_runs_of_the_sorted_labels() -> None:
    # Sorted: examples 4 5 (label 0), 2 3 (label 1), 0 1 (label 2), 6 7 (label 3); four shards of two.
    labels = np.array([2, 2, 1, 1, 0, 0, 3, 3])
    dealt = parts(Shards(workers=2, shards_per_worker=2)(labels))
    runs = sorted(tuple(part[i : i + 2]) for part in dealt for i in (0, 2))
    assert runs == [(0, 1), (2, 3), (4, 5), (6, 7)]


def test_shards_are_dealt_at_random() -> None:
    dealt = {str(parts(Shards(4, seed=seed)(np.arange(16)))) for seed in range(10)}
    assert len(dealt) == 10


def test_shards_leave_a_worker_few_classes() -> None:
    labels = np.repeat(np.arange(10), 60)
    assert max(len(np.unique(labels[part])) for part in Shards(20)(labels)) == 2


def test_natural_ids_by_hand() -> None:
    partition = NaturalIds()(np.array([10, 2, 10, 3]))
    assert list(partition.iter_names()) == ["2", "3", "10"]
    assert parts(partition) == [[1], [3], [0, 2]]


@pytest.mark.parametrize("ids", [["b", "a", "b"], np.array(["b", "a", "b"]), np.array([["b"], ["a"], ["b"]])])
def test_natural_ids_parallel_to_the_labels(ids: Any) -> None:
    partition = NaturalIds(ids)(np.array([7, 7, 7]))
    assert list(partition.iter_names()) == ["a", "b"]
    assert parts(partition) == [[1], [0, 2]]


def test_log_normal_without_spread_is_even() -> None:
    assert LogNormal(workers=4, sigma=0)(np.zeros(12)).sizes().tolist() == [3, 3, 3, 3]


def test_log_normal_sizes_are_proportional_to_the_draws() -> None:
    sizes = LogNormal(workers=1000, sigma=0.5)(np.zeros(1_000_000)).sizes()
    assert np.log(sizes).std() == pytest.approx(0.5, rel=0.1)
    assert np.median(sizes) / sizes.mean() == pytest.approx(np.exp(-(0.5**2) / 2), rel=0.05)


def test_log_normal_lifts_only_workers_below_the_minimum() -> None:
    free, lifted = (LogNormal(50, 2.0, min_size=m)(np.zeros(100_000)).sizes() for m in (1, 300))
    assert free.min() < 300 == lifted.min()
    above = lifted > 300
    ratio = lifted[above] / free[above]
    assert ratio.max() / ratio.min() == pytest.approx(1, abs=0.01)  # the others keep their proportions


@pytest.mark.parametrize("sigma", [1000.0, 1e300])
def test_log_normal_survives_a_huge_spread(sigma: float) -> None:
    assert sorted(LogNormal(3, sigma)(np.zeros(10)).sizes().tolist()) == [1, 1, 8]


def sizes_of_shares(monkeypatch: pytest.MonkeyPatch, n: int, minimum: int, *drawn: list[float]) -> list[int]:
    """Sizes of workers for whom these proportions are drawn, one list after another."""
    left = [*drawn]

    class Draws:
        def dirichlet(self, alpha: NDArray[np.float64]) -> NDArray[np.float64]:
            assert alpha.tolist() == [0.5] * len(drawn[0])
            return np.array(left.pop(0) if len(left) > 1 else left[0])

        def permutation(self, n: int) -> NDArray[np.int64]:
            return np.arange(n)

    monkeypatch.setattr(partitioners, "generator", lambda seed: Draws())
    return DirichletSizes(len(drawn[0]), 0.5, minimum)(np.zeros(n)).sizes().tolist()


def test_dirichlet_sizes_are_the_shares_rounded_by_largest_remainder(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes_of_shares(monkeypatch, 10, 1, [0.55, 0.33, 0.12]) == [6, 3, 1]


def test_dirichlet_sizes_are_drawn_anew_until_all_are_large_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sizes_of_shares(monkeypatch, 100, 10, *[[0.91, 0.09]] * 30, [0.3, 0.7], [0.6, 0.4]) == [30, 70]


def test_dirichlet_sizes_are_lifted_where_no_draw_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    # 0.09 of 100 is lifted to 10, the other 90 stay in the proportions 0.6 : 0.3.
    assert sizes_of_shares(monkeypatch, 100, 10, [0.607, 0.303, 0.09]) == [60, 30, 10]


def test_dirichlet_sizes_moments() -> None:
    # As above: the mean 1/W and the variance (W - 1) / (W^2 (W a + 1)); with a = 2 hardly one is below the minimum.
    shares = np.stack([DirichletSizes(4, 2.0, 1, seed)(np.zeros(10_000)).sizes() / 10_000 for seed in range(500)])
    assert shares.mean() == pytest.approx(1 / 4)
    assert shares.var() == pytest.approx(3 / (16 * 9), rel=0.1)


@pytest.mark.parametrize("alpha", [1e-300, 1e-5, 1e300])
def test_dirichlet_sizes_survive_any_concentration(alpha: float) -> None:
    sizes = DirichletSizes(5, alpha, min_size=2)(np.zeros(20)).sizes()
    assert sorted(sizes.tolist()) == ([2, 2, 2, 2, 12] if alpha < 1 else [4] * 5)


def skew(alpha: float) -> float:
    """Give the mean share of a worker's commonest class."""
    partition = Dirichlet(20, alpha, seed=3)(LABELS)
    return float(np.mean([np.bincount(LABELS[part]).max() / len(part) for part in partition]))


def test_dirichlet_skew_falls_with_alpha() -> None:
    assert skew(0.05) > 0.5 > skew(1.0) > 0.2
    assert skew(1000.0) < 0.13


def test_dirichlet_moments() -> None:
    # Dir(a) over W workers: a share has the mean 1/W and the variance (W - 1) / (W^2 (W a + 1)).
    labels = np.repeat(np.arange(500), 1000)
    partition = Dirichlet(4, 0.5, seed=1)(labels)
    shares = np.stack([np.bincount(labels[part], minlength=500) / 1000 for part in partition])
    assert shares.mean() == pytest.approx(1 / 4)
    assert shares.var() == pytest.approx(3 / (16 * 3), rel=0.1)


def test_dirichlet_rounds_without_favour() -> None:
    # Every example a class of its own: rounding down would give all 4000 to the last worker.
    assert Dirichlet(4, 1.0)(np.arange(4000)).sizes() == pytest.approx(1000, abs=150)


def test_dirichlet_draws_anew_before_it_moves() -> None:
    # One class, two workers, Dir(1, 1): one draw in five leaves a worker below 100; moving makes it just 100.
    smallest = [Dirichlet(2, 1.0, min_size=100, seed=seed)(np.zeros(1000)).sizes().min() for seed in range(50)]
    assert smallest.count(100) <= 2


@pytest.mark.parametrize(("min_size", "draws_again"), [(1, False), (150, True), (500, False)])
def test_dirichlet_draws_anew_only_where_it_may_help(
    monkeypatch: pytest.MonkeyPatch, min_size: int, draws_again: bool
) -> None:
    # After the first draw all workers have something, one has fewer than 150 examples, and 41 have fewer than 500.
    def sizes(draws: int) -> list[int]:
        monkeypatch.setattr(label_skew, "DIRICHLET_DRAWS", draws)
        return Dirichlet(100, 0.5, min_size)(LABELS).sizes().tolist()

    assert (sizes(1) != sizes(10)) == draws_again


def test_dirichlet_moves_examples_only_from_the_largest() -> None:
    # 40 workers of at least 5 with 200 examples: all of them have 5 in the end.
    assert Dirichlet(40, 0.05, min_size=5)(LABELS[:200]).sizes().tolist() == [5] * 40


def test_dirichlet_repair_cuts_the_largest_to_one_level() -> None:
    sizes = np.sort(Dirichlet(30, 0.05, min_size=10)(LABELS[:600]).sizes())
    assert sizes[0] == 10
    assert (sizes == 10).sum() > 5
    assert sizes[-1] - sizes[-2] <= 1


def test_dirichlet_order_within_a_worker_is_random() -> None:
    labels = np.repeat([0, 1], 500)
    part = Dirichlet(2, 100.0)(labels)[0]
    assert 0.3 < labels[part[: len(part) // 2]].mean() < 0.7


# Properties

MAKERS: list[Callable[[int, int, int], Partitioner]] = [
    lambda workers, minimum, seed: IID(workers, seed),
    lambda workers, minimum, seed: Dirichlet(workers, 0.1, minimum, seed),
    lambda workers, minimum, seed: Dirichlet(workers, 10.0, minimum, seed),
    lambda workers, minimum, seed: Dirichlet(workers, 0.1, minimum, seed, capped=True),
    Shards,
    lambda workers, minimum, seed: DirichletSizes(workers, 0.5, minimum, seed),
    lambda workers, minimum, seed: LogNormal(workers, 1.5, minimum, seed),
    lambda workers, minimum, seed: LogNormal(workers, 8.0, minimum, seed),
]


@settings(deadline=None, max_examples=150)
@given(
    maker=st.sampled_from(MAKERS),
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=80),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_nothing_dropped_nothing_doubled_minimum_kept_seeded(
    maker: Callable[[int, int, int], Partitioner], labels: list[int], seed: int, data: st.DataObject
) -> None:
    workers = data.draw(st.integers(1, len(labels)))
    minimum = data.draw(st.integers(1, len(labels) // workers))
    partitioner = maker(workers, minimum, seed)
    partition, again = partitioner(np.array(labels)), partitioner(np.array(labels))
    assert sorted(partition.indices.tolist()) == list(range(len(labels)))
    assert len(partition) == workers
    assert partition.sizes().min() >= minimum or isinstance(partitioner, IID)
    assert parts(partition) == parts(again)


@given(ids=st.lists(st.integers(-5, 5), min_size=1, max_size=50))
def test_natural_ids_hold_exactly_their_own(ids: list[int]) -> None:
    partition = NaturalIds()(np.array(ids))
    assert {partition.name(i): {str(ids[j]) for j in part} for i, part in enumerate(partition)} == {
        str(number): {str(number)} for number in ids
    }


@pytest.mark.parametrize("make", MAKERS)
def test_another_seed_gives_another_partition(make: Callable[[int, int, int], Partitioner]) -> None:
    assert parts(make(10, 1, 0)(LABELS[:500])) != parts(make(10, 1, 1)(LABELS[:500]))


@pytest.mark.parametrize(
    "partitioner",
    [IID(3), LogNormal(3, 1.0), DirichletSizes(3, 1.0, 1), NaturalIds([0, 1, 2, 0, 1])],
)
def test_partitioners_that_need_no_labels_do_not_look_at_them(partitioner: Partitioner) -> None:
    assert not partitioner.needs_labels
    assert parts(partitioner(np.arange(5))) == parts(partitioner(np.zeros(5)))


@pytest.mark.parametrize("partitioner", [Dirichlet(3, 1.0), Shards(3), LabelsPerWorker(10, labels=1), NaturalIds()])
def test_labels_may_be_a_column(partitioner: Partitioner) -> None:
    assert partitioner.needs_labels
    assert parts(partitioner(LABELS[:50])) == parts(partitioner(LABELS[:50, None]))


@pytest.mark.parametrize(
    "partitioner",
    [
        IID(3),
        Dirichlet(3, 1.0),
        Shards(3),
        LabelsPerWorker(10, labels=1),
        NaturalIds(),
        LogNormal(3, 1.0),
        DirichletSizes(3, 1.0),
    ],
)
def test_pickles(partitioner: Partitioner) -> None:
    again = pickle.loads(pickle.dumps(partitioner))
    assert parts(again(LABELS[:50])) == parts(partitioner(LABELS[:50]))


# Speed: as many calls whatever the number of workers, where a loop over them in Python makes millions

IDS = np.random.default_rng(0).permutation(2_000_000) // 2


def calls(partitioner: Partitioner, labels: NDArray[Any]) -> int:
    """Count the calls of functions that it takes to deal the examples out."""
    counts: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, arg: counts.update([event]))
    try:
        partitioner(labels)
    finally:
        sys.setprofile(None)
    return counts["call"] + counts["c_call"]


@pytest.mark.parametrize(
    "partitioner",
    [
        IID(1_000_000),
        LogNormal(1_000_000, 1.0),
        DirichletSizes(1_000_000, 1.0, min_size=1),
        Shards(1_000_000),
        Dirichlet(1_000_000, 0.5),
        Dirichlet(1_000_000, 0.5, capped=True),
        LabelsPerWorker(900_000),
        NaturalIds(IDS),
    ],
    ids=repr,
)
def test_a_million_workers(partitioner: Partitioner) -> None:
    assert calls(partitioner, IDS % 10) < 2000


def test_dirichlet_makes_as_many_calls_for_ten_times_the_workers() -> None:
    few, many = (calls(Dirichlet(workers, 100.0), LABELS) for workers in (10, 100))
    assert many <= few + 50


# Faults


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: IID(0), "workers=0: give at least 1"),
        (lambda: IID(2, seed=-1), "seed=-1"),
        (lambda: Dirichlet(-3, 1.0), "workers=-3"),
        (lambda: Dirichlet(2, 0.0), "alpha=0.0.*above 0"),
        (lambda: Dirichlet(2, float("nan")), "alpha=nan"),
        (lambda: Dirichlet(2, float("inf")), "alpha=inf.*IID"),
        (lambda: Dirichlet(2, 1.0, min_size=0), "min_size=0"),
        (lambda: Dirichlet(2, 1.0, seed=-1), "seed=-1"),
        (lambda: LabelsPerWorker(0), "workers=0: give at least 1"),
        (lambda: LabelsPerWorker(2, labels=0), "labels=0: give at least 1"),
        (lambda: LabelsPerWorker(2, seed=-1), "seed=-1"),
        (lambda: Shards(0), "workers=0"),
        (lambda: Shards(2, shards_per_worker=0), "shards_per_worker=0"),
        (lambda: Shards(2, seed=-1), "seed=-1"),
        (lambda: DirichletSizes(0, 1.0), "workers=0"),
        (lambda: DirichletSizes(2, 0.0), "alpha=0.0.*above 0.*for equal sizes use IID"),
        (lambda: DirichletSizes(2, 1.0, min_size=0), "min_size=0"),
        (lambda: DirichletSizes(2, 1.0, seed=-1), "seed=-1"),
        (lambda: DirichletSizes(2, 1.0)(np.zeros(19)), r"workers=2 \* min_size=10 needs 20 examples"),
        (lambda: LogNormal(0, 1.0), "workers=0"),
        (lambda: LogNormal(2, -1.0), "sigma=-1.0"),
        (lambda: LogNormal(2, float("nan")), "sigma=nan"),
        (lambda: LogNormal(2, 1.0, min_size=0), "min_size=0"),
        (lambda: LogNormal(2, 1.0, seed=-1), "seed=-1"),
        (lambda: IID(6)(np.zeros(5)), "workers=6 needs 6 examples, and there are 5: lower workers"),
        (lambda: Dirichlet(3, 1.0, min_size=2)(np.zeros(5)), r"workers=3 \* min_size=2 needs 6.*lower workers or min"),
        (lambda: Shards(3)(np.zeros(5)), r"workers=3 \* shards_per_worker=2 needs 6 examples"),
        (lambda: LogNormal(3, 1.0, min_size=2)(np.zeros(5)), r"workers=3 \* min_size=2 needs 6 examples"),
        (lambda: LabelsPerWorker(3)(np.arange(5)), r"workers=3 \* labels=2 needs 6 examples"),
        (lambda: LabelsPerWorker(1)(np.zeros(5)), "labels=2: there are 1 different ones only; lower labels"),
        (
            lambda: LabelsPerWorker(2, labels=1)(np.array(["cat", "dog", "hen"])),
            "workers=2 of labels=1 each leave out the label hen: give workers of at least 3, .* or more labels",
        ),
        (
            lambda: LabelsPerWorker(4, labels=1)(np.array([0, 0, 0, 8])),
            "the label 8 has 1 examples for 2 workers: lower workers or labels",
        ),
        (lambda: LabelsPerWorker(2)(np.zeros((5, 2))), r"labels of shape \(5, 2\)"),
        (lambda: Dirichlet(2, 1.0)(np.zeros((5, 2))), r"labels of shape \(5, 2\)"),
        (lambda: Shards(2)(np.zeros((5, 2))), r"labels of shape \(5, 2\)"),
        (lambda: NaturalIds([1, 2])(np.zeros(3)), "ids: 2 for 3 examples"),
        (lambda: NaturalIds()(np.zeros(0)), "ids: 0 for 0 examples"),
    ],
)
def test_faults_are_named(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
