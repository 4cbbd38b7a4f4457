"""Aggregators against an independent implementation, byzfl 0.0.11 (EPFL and Inria), as numbers that it gave.

Where the two differ it is by definition, and byzfl follows Allouah et al. (2023), *Fixing by Mixing*:

- Krum there scores by the n - f - 1 nearest others, and here by n - f - 2, as in Blanchard et al. (2017), section 4.
  ``test_where_krum_differs`` has numbers for which they choose differently.
- MultiKrum there always takes n - f updates, and here n - f - 2 unless told otherwise, as in the proof.
- GeometricMedian there makes three steps from 0 with ν = 0.1; here it goes on until the point stands still.
- Bucketing there deals by NumPy's global generator; here by the seed of the run.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cohorts import job
from helpers import assert_equal

from lightning_fed.aggregation import (
    Bucketing,
    CenteredClipping,
    CohortAggregator,
    GeometricMedian,
    Krum,
    Median,
    MultiKrum,
    NearestNeighborMixing,
    TrimmedMean,
)
from lightning_fed.aggregation.robust import Gathered
from lightning_fed.core.rng import derive

pytestmark = pytest.mark.usefixtures("double")

FAR = [
    *([1.0, -2.0, 0.5], [0.5, -1.5, 0.0], [1.5, -2.5, 1.0], [0.0, -2.0, 0.25], [2.0, -1.0, 0.75]),
    *([1.25, -1.75, -0.5], [0.75, -3.0, 0.5], [-20.0, 15.0, 30.0], [-18.0, 14.0, 33.0]),
]
"""Nine workers, the last two far from all others."""

NEAR = [
    *([0.5, -1.0, 2.0], [1.0, 0.0, 1.5], [-0.5, -1.5, 2.5], [0.0, 1.0, 1.0], [2.5, -0.5, 0.0], [1.5, -2.0, 3.0]),
    *([3.0, 3.5, -2.0], [3.5, 3.0, -1.5]),
]
"""Eight workers, the last two at the edge."""

AS_BYZFL = GeometricMedian(iterations=8, tolerance=0, start="zero", nu=0.1)
LONGER = GeometricMedian(iterations=40, tolerance=0, start="zero", nu=1e-6)

OF_FAR: list[tuple[CohortAggregator, list[float]]] = [
    (Median(), [0.75, -1.75, 0.5]),
    (TrimmedMean(2), [0.7, -1.65, 0.6]),
    (Krum(2), [1.0, -2.0, 0.5]),
    (MultiKrum(2, selected=7), [1.0, -1.9642857142857142, 0.35714285714285715]),
    (AS_BYZFL, [0.8770746781558083, -1.9255493455366657, 0.5324030079525232]),
    (LONGER, [0.8871891530067691, -1.9315979793214666, 0.5317593974989407]),
    (CenteredClipping(radius=1.5, iterations=3), [0.7478014098654622, -1.7098967494454174, 0.6715953059838894]),
    (
        NearestNeighborMixing(CenteredClipping(radius=1.5, iterations=3), attackers=2),
        [0.7732337485454335, -1.7544824585383116, 0.6824531565202357],
    ),
]

OF_NEAR: list[tuple[CohortAggregator, list[float]]] = [
    (Median(), [1.25, -0.25, 1.25]),
    (TrimmedMean(2), [1.375, -0.125, 1.125]),
    (Krum(2), [0.5, -1.0, 2.0]),
    (MultiKrum(2, selected=6), [0.8333333333333334, -0.6666666666666666, 1.6666666666666667]),
    (AS_BYZFL, [1.006147875228986, -0.04113739323716507, 1.4325292895094743]),
    (LONGER, [1.0007036891292076, -0.0067470557446575674, 1.4891549976066103]),
    (CenteredClipping(radius=1.5, iterations=3), [1.0377003182588456, -0.020071543874218806, 1.0925607007263276]),
    (NearestNeighborMixing(Median(), 2), [0.8333333333333334, -0.6666666666666666, 1.6666666666666667]),
    (NearestNeighborMixing(TrimmedMean(2), 2), [1.0, -0.4791666666666667, 1.5000000000000002]),
    (
        NearestNeighborMixing(MultiKrum(2, selected=6), 2),
        [0.9444444444444445, -0.5416666666666666, 1.5555555555555556],
    ),
    (
        NearestNeighborMixing(CenteredClipping(radius=1.5, iterations=3), 2),
        [1.1278916583889012, -0.19030909714450872, 1.2388901878693988],
    ),
]


def cohort(rows: list[list[float]]) -> Gathered:
    workers = tuple(f"w{place}" for place in range(len(rows)))
    return Gathered(workers, torch.tensor(rows), {}, {}, torch.ones(len(rows)))


@pytest.mark.parametrize(("aggregator", "expected"), OF_FAR, ids=repr)
def test_two_far_from_seven(aggregator: CohortAggregator, expected: list[float]) -> None:
    assert_equal(aggregator.combined(cohort(FAR)).delta, torch.tensor(expected))


@pytest.mark.parametrize(("aggregator", "expected"), OF_NEAR, ids=repr)
def test_two_at_the_edge_of_six(aggregator: CohortAggregator, expected: list[float]) -> None:
    assert_equal(aggregator.combined(cohort(NEAR)).delta, torch.tensor(expected))


def test_the_default_geometric_median_is_that_of_thousands_of_steps() -> None:
    """byzfl's with T = 2000 and 3000 and ν = 1e-12; near a worker's own point, where steps are small, ours ends."""
    for rows, exact, tolerance in (
        (FAR, [0.8871892585253016, -1.9315980424905237, 0.5317593880218278], 3e-6),
        (NEAR, [1.0003501670450896, -0.003481862101525357, 1.4944105331229638], 2e-3),
    ):
        assert (GeometricMedian().combined(cohort(rows)).delta - torch.tensor(exact)).abs().max() < tolerance


def test_centered_clipping_of_a_second_round() -> None:
    """byzfl's object remembers, too; the updates of the second round are half of the first's."""
    first = CenteredClipping(radius=1.5, iterations=3)
    for rows, then in (
        (FAR, [0.29300866005531057, -0.8163344181696679, 0.5081639516217135]),
        (NEAR, [0.6271310414690301, 0.004550042338483745, 0.5392142036120319]),
    ):
        server: dict[str, torch.Tensor] = {}
        first.remember(first.combined(cohort(rows)), server)
        halved = [[number / 2 for number in row] for row in rows]
        second = first.of_round(job({"w": torch.zeros(3)}), server)
        assert_equal(second.combined(cohort(halved)).delta, torch.tensor(then))


def test_rows_of_nearest_neighbour_mixing() -> None:
    middle = [0.8333333333333334, -0.6666666666666666, 1.6666666666666667]
    edge = [1.75, 1.0, 0.16666666666666666]
    expected = [middle] * 4 + [[1.5, 0.08333333333333333, 1.0], middle, edge, edge]
    shares = NearestNeighborMixing(Median(), attackers=2).shares(cohort(NEAR))
    assert_equal(shares @ torch.tensor(NEAR), torch.tensor(expected))


def test_rows_of_bucketing() -> None:
    """byzfl with the permutation 6 2 1 7 3 0 5 4, in threes: the workers have names for which ours deals so, too."""
    byzfls = [
        *([1.3333333333333333, 1.0, 0.5], [1.1666666666666667, 0.6666666666666666, 0.6666666666666666]),
        [2.0, -1.25, 1.5],
    ]
    names = sorted((f"w{place}" for place in range(8)), key=lambda name: derive(derive(0, 0, "bucketing"), name))
    workers = dict(zip([6, 2, 1, 7, 3, 0, 5, 4], names, strict=True))
    sent = replace(cohort(NEAR), workers=tuple(workers[place] for place in range(8)))
    bucketing = Bucketing(Median(), size=3).of_round(job({"w": torch.zeros(3)}), {})
    assert_equal(bucketing.shares(sent) @ torch.tensor(NEAR), torch.tensor(byzfls))


def test_where_krum_differs() -> None:
    """By 2 others 1 is nearest (1 + 4), by 3 others 3 (4 + 9 + 16 of it, and 1 + 4 + 36 of 1): byzfl gives 3."""
    rows = [[0.0], [1.0], [3.0], [7.0], [100.0]]
    assert Krum(1).combined(cohort(rows)).delta.tolist() == [1.0]
    assert MultiKrum(1, selected=4).combined(cohort(rows)).delta.tolist() == [2.75]  # byzfl's as well
