"""Quantiles by hand, as numpy has them, and where numpy has none."""

import math
import random

import numpy as np
import pytest

from lightning_fed.core.spread import LABELS, in_order, quantile, spread

NAN, INF = math.nan, math.inf


def test_five_numbers_by_hand() -> None:
    """1, 2, 3, 4, 10: the tenth part of the way from the first to the last of them is 0.4 of the way to the second."""
    points = spread([4.0, 10.0, 1.0, 3.0, 2.0])
    assert tuple(points) == LABELS
    assert points == pytest.approx({"min": 1, "p10": 1.4, "median": 3, "p90": 7.6, "max": 10, "std": math.sqrt(10)})


@pytest.mark.parametrize("n", [1, 2, 3, 10, 101])
def test_quantiles_are_those_of_numpy_bit_for_bit(n: int) -> None:
    numbers = [random.Random(n + i).gauss(0, 1) for i in range(n)]
    for q in (0.0, 0.1, 0.25, 1 / 3, 0.5, 0.9, 0.99, 1.0):
        assert quantile(in_order(numbers), q) == np.quantile(numbers, q)


def test_nan_is_left_out() -> None:
    assert spread([NAN, 1.0, NAN, 3.0]) == spread([1.0, 3.0])


@pytest.mark.parametrize("numbers", [[], [NAN], [NAN, NAN]])
def test_of_no_number_all_is_nan(numbers: list[float]) -> None:
    assert all(math.isnan(point) for point in spread(numbers).values())


def test_infinite_numbers_do_not_make_it_nan() -> None:
    points = spread([1.0, 2.0, INF, INF])
    assert (points["min"], points["p10"], points["median"]) == (1.0, pytest.approx(1.3), INF)
    assert (points["p90"], points["max"]) == (INF, INF)
    assert math.isnan(points["std"])
    assert spread([-INF, -INF, 0.0])["p90"] == -INF
    assert math.isnan(spread([-INF, INF])["median"])
