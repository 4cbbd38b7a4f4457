from __future__ import annotations

import numpy as np
import pytest

from lightning_fed.datasets._dealing import cut, cut_down, moved, proportional


@pytest.mark.parametrize(("start", "counts"), [(0.0, [2, 2, 6]), (0.2, [2, 3, 5]), (0.6, [3, 2, 5])])
def test_cut_by_hand(start: float, counts: list[int]) -> None:
    # 10 in the proportions 0.25, 0.24, 0.51: the inner cuts lie at 2.5 and 4.9, plus the start, rounded down.
    assert cut(np.array([0.25, 0.24, 0.51]), 10, start).tolist() == counts


def test_cut_stays_within_the_total_when_the_start_rounds_up() -> None:
    start = np.nextafter(1, 0)
    assert 6000 + start == 6001
    assert cut(np.array([1.0, 0.0]), 6000, start).tolist() == [6000, 0]


def test_cut_of_one_part_is_the_total() -> None:
    assert cut(np.ones(1), 3, 0.9).tolist() == [3]


def test_cut_down_by_hand() -> None:
    # The cuts of 7 lie at 3.5 and 5.6.
    assert cut_down(np.array([0.5, 0.3, 0.2]), 7).tolist() == [3, 2, 2]
    assert cut_down(np.ones(1), 3).tolist() == [3]


def test_moved_by_hand() -> None:
    # Sizes 6, 5, 1, 0 with a minimum of 2: three examples move, and the donors end at 4 and 4.
    owners = np.repeat([0, 1, 2, 3], [6, 5, 1, 0])
    result = moved(owners, np.array([6, 5, 1, 0]), 2)
    assert result.tolist() == [0, 0, 0, 0, 2, 3, 1, 1, 1, 1, 3, 2]


def test_moved_takes_no_more_than_is_needed() -> None:
    # Sizes 5, 5, 1 with a minimum of 2: one example moves, though the level of 4 would free two.
    result = moved(np.repeat([0, 1, 2], [5, 5, 1]), np.array([5, 5, 1]), 2)
    assert np.bincount(result).tolist() == [5, 4, 2]


@pytest.mark.parametrize(
    ("weights", "total", "minimum", "sizes"),
    [
        ([1.0, 0.5, 0.5], 8, 1, [4, 2, 2]),
        ([0.5, 1.0], 10, 1, [3, 7]),  # 10 / 3 and 20 / 3: the larger remainder is rounded up
        ([1.0, 1.0, 0.0], 9, 3, [3, 3, 3]),
        ([1.0, 0.5, 0.01], 10, 1, [6, 3, 1]),  # the last is lifted to 1, the others share 9
    ],
)
def test_proportional_by_hand(weights: list[float], total: int, minimum: int, sizes: list[int]) -> None:
    assert proportional(np.array(weights), total, minimum).tolist() == sizes
