"""Neighbours on a ring, and how many are needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lightning_fed.secure.graph import all_neighbours, degree, least_degree, neighbours_of, order

FOUND = [  # workers, colluding, away, whether the server may lie; degree and threshold as Google's finder has them
    (100, 0.45, 0.45, False, 92, 46),
    (10, 0.33, 0.33, False, 8, 4),
    (100, 0.33, 0.33, False, 68, 34),
    (1000, 0.33, 0.33, False, 286, 150),
    (100, 0.3, 0.3, True, 92, 62),
    (1000, 0.3, 0.3, True, 872, 584),
    (10, 0.05, 0.33, False, 4, 2),
    (100, 0.05, 0.33, False, 28, 6),
    (1000, 0.05, 0.33, False, 72, 24),
    (10000, 0.05, 0.33, False, 86, 29),
    (100, 0.05, 0.33, True, 72, 39),
    (1000, 0.05, 0.33, True, 398, 223),
    (10, 0.33, 0.05, False, 4, 4),
    (100, 0.33, 0.05, False, 34, 29),
    (1000, 0.33, 0.05, False, 78, 60),
    (1000, 0.33, 0.05, True, 132, 109),
    (10, 0.05, 0.05, False, 2, 2),
    (100, 0.05, 0.05, False, 12, 6),
    (1000, 0.05, 0.05, False, 30, 17),
    (10000, 0.05, 0.05, False, 34, 20),
    (100, 0.05, 0.05, True, 16, 11),
    (1000, 0.05, 0.05, True, 52, 37),
    (10000, 0.05, 0.05, True, 62, 44),
]


@pytest.mark.parametrize(("workers", "colluding", "away", "lies", "neighbours", "threshold"), FOUND)
def test_known_degrees(
    workers: int, colluding: float, away: float, lies: bool, neighbours: int, threshold: int
) -> None:
    assert least_degree(workers, colluding, away, lies) == (neighbours, threshold)


@pytest.mark.parametrize(("workers", "neighbours"), [(50, 49), (64, 63), (100, 32), (200, 56), (500, 82), (1000, 96)])
def test_degrees_of_ours(workers: int, neighbours: int) -> None:
    found = degree(workers, 0.7)
    assert found.neighbours == neighbours
    assert 2 * found.threshold > neighbours + 1
    if workers > 64:
        assert found.threshold >= least_degree(workers, 0.1, 0.1).threshold


def test_the_page_has_these() -> None:
    page = (Path(__file__).parents[2] / "docs" / "secure_aggregation.md").read_text(encoding="utf-8")
    rows = [list(map(int, row.split("|")[1:-1])) for row in re.findall(r"^(?:\| \d+ )+\|$", page, flags=re.MULTILINE)]
    assert len(rows) == 5
    for workers, k, t, s, gone, collude in rows:
        assert degree(workers, 0.7) == (k, t)
        assert (s, gone, collude) == (k + 1, s - t, 2 * t - s - 1)


def test_a_threshold_is_not_rounded_up_by_an_error_of_floats() -> None:
    """0.7 times 10 is 7.000000000000001 in some orders of factors."""
    assert degree(10, 0.7).threshold == 7
    assert degree(5, 0.6).threshold == 3
    assert degree(10, 1.0).threshold == 10


@pytest.mark.parametrize("workers", [65, 100, 1000])
@pytest.mark.parametrize("threshold", [0.51, 0.6, 0.7])
@pytest.mark.parametrize("neighbours", [None, 2, 4, 6, 32])
def test_no_gap_divides_the_survivors(workers: int, threshold: float, neighbours: int | None) -> None:
    """Beside a gap of k/2 lost ones k/2 neighbours are left, and with the worker itself that is not enough."""
    found = degree(workers, threshold, neighbours)
    assert found.threshold > found.neighbours // 2 + 1
    if neighbours is None:
        assert found.threshold >= least_degree(workers, 0.1, 0.1).threshold


def test_where_no_graph_is_safe() -> None:
    with pytest.raises(ValueError, match="no graph keeps 10 workers safe if 45% collude and 45% are away"):
        least_degree(10, 0.45, 0.45, True)


@pytest.mark.parametrize(("n", "k"), [(5, 4), (12, 6), (13, 4), (7, 6), (8, 7), (2, 1)])
def test_neighbours(n: int, k: int) -> None:
    ring = order(tuple(f"w{i}" for i in range(n)), b"session")
    assert sorted(ring) == list(range(n))
    rows = all_neighbours(ring, k)
    for worker, row in enumerate(rows):
        assert row == sorted(set(row) - {worker})
        assert len(row) == k
        assert all(worker in rows[other] for other in row)
        assert neighbours_of(worker, ring, k) == row


def test_the_order_follows_from_the_session_and_the_names_alone() -> None:
    names = tuple(f"w{i}" for i in range(40))
    assert order(names, b"one") == order(names, b"one") != order(names, b"two")
    turned = order(names[::-1], b"one")
    assert [names[::-1][i] for i in turned] == [names[i] for i in order(names, b"one")]
