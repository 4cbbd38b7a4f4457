"""Aggregators that hold when some of the workers do not tell the truth."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cohorts import job, stack
from helpers import Rows, Scalar, assert_equal, fit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import (
    Bucketing,
    Bulyan,
    CohortAggregator,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NearestNeighborMixing,
    TrimmedMean,
    WeightedMean,
)
from lightning_fed.core.processes import Processes
from lightning_fed.wire import Aggregate, Job, Updates

ALL: list[CohortAggregator] = [
    Median(),
    TrimmedMean(2),
    Krum(2),
    MultiKrum(2),
    MultiKrum(2, 3),
    MultiKrum(2, 9),
    Bulyan(2),
    GeometricMedian(),
    GeometricMedian(weighted=True),
    Bucketing(Median()),
    Bucketing(TrimmedMean(2)),
    NearestNeighborMixing(TrimmedMean(2), attackers=2),
    NearestNeighborMixing(Krum(2), attackers=2),
    Bucketing(NearestNeighborMixing(Median(), attackers=2)),
]
"""Against two attackers among eleven or more."""

each = pytest.mark.parametrize("aggregator", ALL, ids=repr)


def combined(aggregator: Any, sent: Job, *stacks: Updates) -> Aggregate:
    aggregate: Aggregate = aggregator.finish(aggregator.fold(iter(stacks), sent), Processes())
    return aggregate


def of(aggregator: Any, rows: list[list[float]] | Tensor) -> Tensor:
    delta = torch.as_tensor(rows, dtype=torch.float32)
    sent = job({"w": torch.zeros(delta.shape[1])})
    return combined(aggregator, sent, stack(delta, [1.0] * len(delta))).delta


# ---- by hand --------------------------------------------------------------------------------------------------------


def test_median_by_hand() -> None:
    assert of(Median(), [[1, -1], [9, 0], [2, 5]]).tolist() == [2, 0]
    assert of(Median(), [[1], [9], [2], [4]]).tolist() == [3]


def test_trimmed_mean_by_hand() -> None:
    assert of(TrimmedMean(1), [[1, 0], [900, 3], [2, 2], [6, -900]]).tolist() == [4, 1]
    assert of(TrimmedMean(0), [[1], [2], [6]]).tolist() == [3]


def test_krum_by_hand() -> None:
    # n - f - 2 = 2 nearest: of 0: 1 + 9, of 1: 1 + 4, of 3: 4 + 9, of 7: 16 + 36, of 100: far
    assert of(Krum(1), [[0], [1], [3], [7], [100]]).tolist() == [1]


def test_multi_krum_by_hand() -> None:
    assert of(MultiKrum(1, 2), [[0], [1], [3], [7], [100]]).tolist() == [0.5]  # scores 10 and 5
    assert of(MultiKrum(1), [[0], [1], [3], [7], [100]]).tolist() == [0.5]  # n - f - 2 = 2 as well
    assert of(MultiKrum(1, 4), [[0], [1], [3], [7], [100]]).tolist() == [2.75]  # n - f
    assert of(MultiKrum(1, 1), [[0], [1], [3], [7], [100]]) == of(Krum(1), [[0], [1], [3], [7], [100]])


def test_bulyan_by_hand() -> None:
    # Krum chooses 7 (its 4 nearest: 16 + 36 + 49 + 81), of the others 3 (3 nearest: 4 + 9 + 169), then 1 (2 nearest:
    # 1 + 225), 0 (1 nearest), 16. The 3 of these 5 that are nearest to their median 3 are 3, 1 and 0.
    assert of(Bulyan(1), [[0], [1], [3], [7], [16], [33], [1000]]).item() == pytest.approx(4 / 3)
    assert of(Bulyan(0), [[0], [3], [6]]).tolist() == [3]


def test_geometric_median_by_hand() -> None:
    # Of three points with an angle of 120 degrees or more at one, that one.
    assert of(GeometricMedian(), [[0, 0], [3, 0], [-3, 1]]).tolist() == pytest.approx([0, 0], abs=1e-4)
    # Of an equilateral triangle the centre.
    corners = [[math.cos(a), math.sin(a)] for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)]
    assert of(GeometricMedian(), corners).tolist() == pytest.approx([0, 0], abs=1e-5)
    # Of the corners of a convex quadrangle the crossing of the diagonals.
    assert of(GeometricMedian(), [[0, 0], [4, 4], [0, 2], [2, 0]]).tolist() == pytest.approx([1, 1], abs=1e-3)


@each
@pytest.mark.parametrize("power", [-110, 110])
def test_large_and_small_numbers_are_combined_alike(aggregator: CohortAggregator, power: int) -> None:
    """By a power of two nothing is rounded; squares of float32 numbers over- and underflow from 2⁶⁴ and 2⁻⁷⁵ on."""
    rows = torch.randn(11, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(of(aggregator, rows * 2.0**power), of(aggregator, rows) * 2.0**power, rtol=1e-5, atol=0)


# ---- what each promises ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("double")
@each
def test_of_identical_updates_that_one(aggregator: CohortAggregator) -> None:
    rows = torch.tensor([[1.0, -2.0, 0.25]]).expand(11, 3)
    assert_equal(of(aggregator, rows), rows[0])


@each
def test_half_and_more_identical_updates_win(aggregator: CohortAggregator) -> None:
    rows = torch.tensor([[1.0, -2.0]] * 9 + [[50.0, 60.0], [1e6, -1e6]])
    torch.testing.assert_close(of(aggregator, rows), rows[0], rtol=1e-4, atol=0)


@pytest.mark.usefixtures("double")
@each
def test_the_order_of_workers_does_not_matter(aggregator: CohortAggregator) -> None:
    torch.manual_seed(0)
    rows = torch.randn(12, 5)
    sent, updates = job({"w": torch.zeros(5)}), stack(rows, [1.0] * 12)
    one_by_one = [updates.rows(torch.arange(12) == i) for i in reversed(range(12))]
    expected = combined(aggregator, sent, updates).delta
    assert_equal(combined(aggregator, sent, *one_by_one).delta, expected)


@pytest.mark.parametrize("aggregator", [Median(), TrimmedMean(4), Krum(4), MultiKrum(4), GeometricMedian()], ids=repr)
@pytest.mark.parametrize("attack", ["same place", "all over"])
def test_four_far_attackers_of_eleven(aggregator: CohortAggregator, attack: str) -> None:
    torch.manual_seed(1)
    honest = torch.randn(7, 50)
    far = torch.full((4, 50), 1e6) if attack == "same place" else 1e6 * torch.randn(4, 50)
    centre, radius = honest.mean(dim=0), (honest - honest.mean(dim=0)).norm(dim=1).max()
    rows = torch.cat([far[:2], honest, far[2:]])
    assert (of(WeightedMean(), rows) - centre).norm() > 1e5
    assert (of(aggregator, rows) - centre).norm() <= radius


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), attackers=st.integers(0, 3), honest=st.integers(8, 12), far=st.floats(1, 1e6))
def test_every_coordinate_lies_among_the_honest(seed: int, attackers: int, honest: int, far: float) -> None:
    torch.manual_seed(seed)
    truth = torch.randn(honest, 4)
    rows = torch.cat([truth, far * torch.randn(attackers, 4)])
    for aggregator in (Median(), TrimmedMean(attackers)):
        given_back = of(aggregator, rows)
        assert (given_back >= truth.amin(dim=0) - 1e-6).all()
        assert (given_back <= truth.amax(dim=0) + 1e-6).all()


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), attackers=st.integers(0, 4), extra=st.integers(0, 3))
def test_krum_gives_an_honest_update_under_far_outliers(seed: int, attackers: int, extra: int) -> None:
    torch.manual_seed(seed)
    n = 2 * attackers + 3 + extra
    honest = torch.randn(n - attackers, 6)
    rows = torch.cat([honest, 1e5 * (1 + torch.rand(attackers, 6))])
    assert any(torch.equal(of(Krum(attackers), rows), row) for row in honest)
    mean = of(MultiKrum(attackers), rows)
    assert mean.norm() < 100


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), attackers=st.integers(0, 4), far=st.floats(1, 1e6))
def test_the_bound_of_the_geometric_median(seed: int, attackers: int, far: float) -> None:
    torch.manual_seed(seed)
    honest = torch.randn(11 - attackers, 6)
    rows = torch.cat([honest, far + torch.randn(attackers, 6)])
    share = attackers / 11
    radius = (honest - honest.mean(dim=0)).norm(dim=1).max()
    bound = 2 * (1 - share) / (1 - 2 * share) * radius
    assert (of(GeometricMedian(), rows) - honest.mean(dim=0)).norm() <= bound


def test_bulyan_is_not_moved_by_one_coordinate() -> None:
    """What Krum alone overlooks: honest in all coordinates but one."""
    torch.manual_seed(0)
    honest = torch.randn(9, 1000)
    hidden = honest[:2].clone()
    hidden[:, 0] = 15.0
    rows = torch.cat([honest, hidden])
    assert of(Bulyan(2), rows)[0] <= honest[:, 0].max()


# ---- buffers --------------------------------------------------------------------------------------------------------


@each
def test_buffers_are_guarded_too(aggregator: CohortAggregator) -> None:
    buffers = {"mean": torch.zeros(2), "n": torch.tensor(0), "rotation": torch.zeros(1, dtype=torch.complex64)}
    n = 11
    came_back = {
        "mean": torch.tensor([[1.0, 2.0]] * 9 + [[1e9, -1e9]] * 2),
        "n": torch.tensor([7] * 9 + [10**9] * 2),
        "rotation": torch.tensor([[2 + 3j]] * 9 + [[1e9 - 1e9j]] * 2),
    }
    delta = torch.tensor([[1.0]] * 9 + [[1e6]] * 2)
    aggregate = combined(aggregator, job({"w": torch.zeros(1)}, buffers), stack(delta, [1.0] * n, came_back))
    torch.testing.assert_close(aggregate.buffers["mean"], torch.tensor([1.0, 2.0]), rtol=1e-3, atol=0)
    torch.testing.assert_close(aggregate.buffers["rotation"], torch.tensor([2 + 3j]), rtol=1e-3, atol=0)
    assert aggregate.buffers["n"].item() == 7


# ---- preconditions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("aggregator", "least", "condition"),
    [
        (TrimmedMean(2), 5, "trim < n/2"),
        (Krum(2), 7, "n >= 2 attackers \\+ 3"),
        (MultiKrum(2), 7, "n >= 2 attackers \\+ 3"),
        (MultiKrum(2, 6), 8, "selected <= n - attackers"),
        (Bulyan(2), 11, "n >= 4 attackers \\+ 3"),
    ],
    ids=repr,
)
def test_a_cohort_that_is_too_small_is_refused_at_the_start(
    aggregator: CohortAggregator, least: int, condition: str
) -> None:
    aggregator.check(least)
    data = FederatedDataModule({str(i): Rows([float(i)]) for i in range(least - 1)})
    with pytest.raises(ValueError, match=f"{type(aggregator).__name__}.*needs {condition}, but n={least - 1} workers"):
        fit(FederatedModule(Scalar(), aggregator=aggregator), data)


def test_more_updates_than_the_proof_is_about_are_warned_of_once() -> None:
    data = FederatedDataModule({str(i): Rows([float(i)]) for i in range(8)})
    with pytest.warns(UserWarning, match=r"more updates than the n - attackers - 2 = 4 of n=8 that its proof") as said:
        fit(FederatedModule(Scalar(), aggregator=MultiKrum(2, 5)), data, max_steps=3)
    assert sum("its proof" in str(warning.message) for warning in said) == 1
    fit(FederatedModule(Scalar(), aggregator=MultiKrum(2, 4)), data, max_steps=1)  # warnings are errors


@pytest.mark.parametrize(
    "make", [lambda: TrimmedMean(-1), lambda: Krum(-1), lambda: MultiKrum(1, 0), lambda: Bulyan(-1)]
)
def test_numbers_out_of_range(make: Any) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        make()
    with pytest.raises(ValueError, match="must be positive"):
        GeometricMedian(smoothing=0)


def test_a_round_in_which_too_many_failed_leaves_the_global_model_alone() -> None:
    module = Scalar()
    workers = {str(i): Rows([float("nan") if i == 0 else 1.0]) for i in range(5)}
    federated = FederatedModule(module, aggregator=Krum(1), on_worker_error="drop")
    with pytest.raises(ValueError, match=r"n=4 workers.*; if workers were lost, FederatedModule\(min_workers=...\)"):
        fit(federated, FederatedDataModule(workers))
    assert module.x.item() == 0.0
