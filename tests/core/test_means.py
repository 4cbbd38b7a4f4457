from __future__ import annotations

import math

import pytest

from lightning_fed.core.means import weighted_mean


@pytest.mark.parametrize(
    ("values", "weights", "mean"),
    [([2.0], [5], 2.0), ([1.0, 4.0], [1, 2], 3.0), ([1.0, 4.0], [0.5, 0.25], 2.0), ([7.0, 4.0], [0, 2], 4.0)],
)
def test_by_hand(values: list[float], weights: list[float], mean: float) -> None:
    assert weighted_mean(values, weights) == mean


@pytest.mark.parametrize(("values", "weights"), [([], []), ([3.0], [0])])
def test_without_weight_there_is_no_mean(values: list[float], weights: list[float]) -> None:
    assert math.isnan(weighted_mean(values, weights))
