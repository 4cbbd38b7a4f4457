"""What a user says of secure aggregation, and what follows from it for a cohort."""

from __future__ import annotations

from typing import Any

import pytest

from lightning_fed.secure import SecureAggregation


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": 0.5}, r"threshold=0\.5\) must be above 0\.5 and at most 1: else a server"),
        ({"threshold": 1.1}, "threshold"),
        ({"least": 1}, r"least=1\) must be at least 2: a sum of one worker is its update"),
        ({"neighbours": 3}, r"neighbours=3\) must be at least 2 and even"),
        ({"neighbours": 0}, r"neighbours=0\) must be at least 2 and even"),
        ({"bits": 10}, r"bits=10\) must be a multiple of 4"),
        ({"bits": 33}, r"bits=33\) must be at least 8 and at most 32"),
        ({"clip": 0.0}, "clip"),
        ({"clip": {"delta": -1.0}}, r"clip\['delta'\]=-1\.0\) must be positive"),
        ({"weight_cap": 0}, "weight_cap"),
        ({"buffer_clip": float("inf")}, "buffer_clip"),
        ({"metric_range": 0}, "metric_range"),
    ],
)
def test_what_cannot_be_right(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SecureAggregation(**{"clip": 1.0, **options})


def test_a_bound_for_each_vector() -> None:
    one, two = SecureAggregation(clip=10.0), SecureAggregation(clip={"delta": 10.0, "control": 100.0})
    assert one.clip_of("delta") == two.clip_of("delta") == 10.0
    assert two.clip_of("control") == 100.0
    with pytest.raises(ValueError, match=r"has clip=10.0, and 'control' is sent, too: give a bound for each"):
        one.clip_of("control")
    with pytest.raises(ValueError, match=r"needs clip=, the largest norm of an update"):
        SecureAggregation().clip_of("delta")


@pytest.mark.parametrize(("cohort", "least"), [(2, 2), (3, 3), (10, 7), (100, 70)])
def test_the_least_number_follows_from_the_threshold(cohort: int, least: int) -> None:
    assert SecureAggregation(clip=1.0).parameters(cohort).least == least


def test_cohorts_that_are_too_small() -> None:
    for secure, cohort in ((SecureAggregation(clip=1.0), 1), (SecureAggregation(clip=1.0, least=5), 4)):
        with pytest.raises(ValueError, match=f"a cohort of {cohort} is too small"):
            secure.parameters(cohort)


def test_bits_that_leave_nothing_for_so_many() -> None:
    with pytest.raises(ValueError, match="has no unit left for each of 200 workers"):
        SecureAggregation(clip=1.0, bits=8).parameters(200)
