"""What tests of a node's processes share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lightning_fed.node.caller import Caller
from lightning_fed.node.settings import Settings

collect_ignore = [
    "echo_app",
    "training_app",
    "grid_in_memory.py",
]  # two Flower Apps that tests send to nodes, and a helper
HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (HERE, ROOT))))
    for name in [name for name in os.environ if name.startswith("LIGHTNING_FED_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that leaves room for a socket's name, which pytest's own may not."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.fixture
def caller(tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Caller]]:
    """Makes callers of a node of the test's own, whose processes end with the test."""
    made: list[Caller] = []
    monkeypatch.setattr("tempfile.tempdir", str(short))

    def make(build: str = "build", **settings: Any) -> Caller:
        described = Settings(f"fake_nodes:{build}", tmp_path / "home", **settings)
        made.append(Caller(described, "node"))
        return made[-1]

    yield make
    for process in (process for each in made for process in each.started):
        process.kill()
        process.wait()
