"""A suite of checks logs no line for each of its Trainers, and its warnings come through."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from lightning_utilities.core import rank_zero

from lightning_fed.algorithms import FedAvg
from lightning_fed.core.warnings_only import warnings_only
from lightning_fed.testing import check_algorithm


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> Any:
    caplog.set_level(logging.INFO, rank_zero.log.name)


def test_within_it_only_warnings_are_logged_and_afterwards_all(caplog: pytest.LogCaptureFixture) -> None:
    with warnings_only():
        rank_zero.rank_zero_info("a device")
        rank_zero.log.warning("a worker")
    rank_zero.rank_zero_info("a run")
    assert caplog.messages == ["a worker", "a run"]


def test_a_level_above_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, rank_zero.log.name)
    with warnings_only():
        rank_zero.log.warning("a worker")
    assert caplog.messages == []


def test_checks_of_an_algorithm_say_nothing_of_their_trainers(caplog: pytest.LogCaptureFixture) -> None:
    check_algorithm(FedAvg)
    assert [record.message for record in caplog.records if record.levelno < logging.WARNING] == []
