"""Engines that the tests of one file share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lightning_fed.engines import Isolated


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    """One engine for a file: to start its child takes seconds."""
    engine = Isolated(processes=1, persistent=True)
    yield engine
    engine.close()


@pytest.fixture(params=["sequential", "vectorized", "isolated"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Each engine in turn."""
    return request.getfixturevalue("isolated") if request.param == "isolated" else request.param
