"""The geometric median with the workers' own weights, and as its paper and others compute it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cohorts import job, stack
from helpers import Rows, Scalar, assert_equal, fit
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed.aggregation import GeometricMedian
from lightning_fed.core.processes import Processes
from lightning_fed.privacy import LocalDP
from lightning_fed.secure import SecureAggregation

STILL: dict[str, Any] = {"iterations": 5000, "tolerance": 1e-13}
"""Until the point stands still."""


def of(aggregator: GeometricMedian, rows: Any, weight: list[float], **buffers: Tensor) -> Any:
    delta = torch.as_tensor(rows, dtype=torch.get_default_dtype())
    sent = job({"w": torch.zeros(delta.shape[1])}, {name: rows[0] for name, rows in buffers.items()})
    return aggregator.finish(aggregator.fold([stack(delta, weight, buffers)], sent), Processes())


@pytest.mark.usefixtures("double")
def test_one_step_of_the_paper_by_hand() -> None:
    """From the mean (0 · 1 + 3 · 2)/3 = 2 the distances are 2 and 1, so β = 1/2 and 2/1, and v = 3 · 2 / 2.5."""
    paper = GeometricMedian(iterations=1, tolerance=0, weighted=True, start="mean", nu=1e-6)
    assert of(paper, [[0.0], [3.0]], [1.0, 2.0]).delta.item() == pytest.approx(2.4)


@pytest.mark.usefixtures("double")
def test_steps_from_zero_by_hand() -> None:
    """Distances 0 and 3; the first counts as ν = 0.1. So β = 10 and 1/3, and v = 1 / (31/3) = 3/31.

    From there both distances are 3/31, which is below ν, and 90/31: β = 10 and 31/90, v = (31/30) / (931/90).
    """
    for steps, expected in ((1, 3 / 31), (2, 93 / 931)):
        aggregator = GeometricMedian(iterations=steps, tolerance=0, start="zero", nu=0.1)
        assert of(aggregator, [[0.0], [3.0]], [1.0, 1.0]).delta.item() == pytest.approx(expected)


AROUND = [[0.0, 0.0], [12.0, -5.0], [-5.0, 12.0]]
"""The coordinate-wise median is the first row."""


@pytest.mark.usefixtures("double")
def test_a_step_off_a_row_by_hand() -> None:
    """The others, 13 away, pull with 2 (12 - 5)/13 in each coordinate, 14 √2/13 in all, and the row holds with 1.

    So a share 13/(14 √2) of the point stays, and the rest goes to the mean of the two others, 3.5.
    """
    point = of(GeometricMedian(iterations=1, weighted=True), AROUND, [1.0, 2.0, 2.0]).delta
    assert point.tolist() == pytest.approx([3.5 * (1 - 13 / (14 * 2**0.5))] * 2)


@pytest.mark.usefixtures("double")
def test_a_row_that_holds_is_the_median() -> None:
    """With weights of one the others pull with 7 √2/13, less than 1."""
    assert_equal(of(GeometricMedian(), AROUND, [1.0] * 3).delta, torch.zeros(2))


@pytest.mark.usefixtures("double")
def test_a_row_at_the_start_does_not_use_up_the_iterations() -> None:
    """At (t, t) the row pulls back with 1.2; the two others with (2.8 - 2 t) √2/√((3 - t)² + (0.2 + t)²).

    At t = 0.2 both are 1.2, since (3 - t)² + (0.2 + t)² is 8.
    """
    point = of(GeometricMedian(weighted=True), [[0.0, 0.0], [3.0, -0.2], [-0.2, 3.0]], [1.2, 1.0, 1.0]).delta
    assert point.tolist() == pytest.approx([0.2, 0.2], rel=1e-3)


@pytest.mark.usefixtures("double")
def test_a_worker_with_weight_two_counts_as_two_workers() -> None:
    rows = torch.randn(6, 4, generator=torch.Generator().manual_seed(3))
    weighted = of(GeometricMedian(weighted=True, **STILL), rows, [1.0, 2.0, 1.0, 3.0, 1.0, 1.0])
    repeated = of(GeometricMedian(**STILL), rows[[0, 1, 1, 2, 3, 3, 3, 4, 5]], [1.0] * 9)
    assert_equal(weighted.delta, repeated.delta)


@pytest.mark.parametrize("start", ["median", "mean", "zero"])
@pytest.mark.parametrize("size", [1, 3])
def test_half_of_all_examples_decide(start: Any, size: int) -> None:
    """Though four of five workers lie together."""
    rows = torch.tensor([[7.0, -3.0, 2.0]] + [[0.5, 0.5, 0.5]] * 4)[:, :size]
    aggregator = GeometricMedian(weighted=True, start=start)
    torch.testing.assert_close(of(aggregator, rows, [9.0, 1.0, 2.0, 3.0, 1.0]).delta, rows[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(of(aggregator, rows, [3.0, 1.0, 2.0, 3.0, 1.0]).delta, rows[1], rtol=1e-4, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 9), size=st.integers(1, 4))
def test_no_point_nearby_has_a_smaller_sum_of_distances(seed: int, n: int, size: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(n, size, generator=generator, dtype=torch.float64)
    weight = torch.randint(1, 9, (n,), generator=generator).double()

    def distances(point: Tensor) -> float:
        return float(weight @ (rows - point).norm(dim=1))

    sent = job({"w": torch.zeros(size, dtype=torch.float64)})
    aggregator = GeometricMedian(weighted=True, **STILL)
    point = aggregator.finish(aggregator.fold([stack(rows, weight.tolist())], sent), Processes()).delta
    least = distances(point)
    for _ in range(20):
        assert distances(point + 0.05 * torch.randn(size, generator=generator, dtype=torch.float64)) > least - 1e-3


def test_equal_weights_of_one_are_no_weights_bit_for_bit() -> None:
    for seed in range(10):
        rows = torch.randn(3 + seed, 5, generator=torch.Generator().manual_seed(seed))
        weight = [1.0] * len(rows)
        assert torch.equal(
            of(GeometricMedian(weighted=True), rows, weight).delta, of(GeometricMedian(), rows, weight).delta
        )


def test_who_has_no_examples_does_not_count_unless_nobody_has_any() -> None:
    rows = [[0.0, 0.0], [0.0, 0.0], [8.0, 6.0]]
    assert of(GeometricMedian(weighted=True), rows, [0.0, 0.0, 1.0]).delta.tolist() == [8.0, 6.0]
    assert of(GeometricMedian(weighted=True), rows, [0.0, 0.0, 0.0]).delta.tolist() == [0.0, 0.0]


def test_buffers_go_by_the_same_weights() -> None:
    mean = torch.tensor([1.0, 2.0, 2.0])
    aggregate = of(GeometricMedian(weighted=True), [[5.0], [0.0], [0.0]], [3.0, 1.0, 1.0], mean=mean)
    assert (aggregate.delta.tolist(), aggregate.buffers["mean"].item()) == ([5.0], 1.0)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("weighted", "place"), [(True, 5.0), (False, 1.0)])
def test_a_fit_counts_by_examples(weighted: bool, place: float) -> None:
    """One worker with seven examples at 5, two with one or two at 1."""
    module = Scalar()
    data = FederatedDataModule({"a": Rows([5.0] * 7), "b": Rows([1.0]), "c": Rows([1.0] * 2)})
    fit(FederatedModule(module, aggregator=GeometricMedian(weighted=weighted)), data)
    assert module.x.item() == pytest.approx(place)


def test_numbers_of_examples_are_private() -> None:
    assert GeometricMedian().counts_equally
    assert not GeometricMedian(weighted=True).counts_equally
    promise = LocalDP(clip=1.0, noise_multiplier=1.0)
    FederatedModule(Scalar(), aggregator=GeometricMedian(), privacy=promise)
    with pytest.raises(ValueError, match="workers must count equally, since a number of examples is private too"):
        FederatedModule(Scalar(), aggregator=GeometricMedian(weighted=True), privacy=promise)
    with pytest.raises(ValueError, match="GeometricMedian needs each worker's update"):
        FederatedModule(
            Scalar(), aggregator=GeometricMedian(weighted=True), secure_aggregation=SecureAggregation(clip=1.0)
        )
