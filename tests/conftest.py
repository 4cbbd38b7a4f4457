"""What all tests share."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

collect_ignore = ["ecosystem"]  # libraries that are installed elsewhere: `make ecosystem`

# Each Trainer reads the entry points of all that is installed: a tenth of the time of a test that fits something
importlib.metadata.entry_points = functools.cache(importlib.metadata.entry_points)  # type: ignore[assignment]
os.environ.pop("LIGHTNING_FED_PL", None)
sys.path.insert(0, str(Path(__file__).parent))
# Small tensors: two threads cost more than they bring, and processes share two cores. Results must not depend on it.
torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
# A cache of compiled programs for each kind of processor: torch 2.13 does not tell one from another, and after a run
# with ATEN_CPU_CAPABILITY=avx2 a run without it computes wrong sums.
_KIND = torch.backends.cpu.get_cpu_capability().lower()
_CACHE = Path(__file__).parent.parent / ".pytest_cache" / f"torchinductor_{_KIND}"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_CACHE))


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)  # where a Trainer without a default_root_dir leaves the ledger of a private run
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    os.environ.pop("PL_GLOBAL_SEED", None)  # of the program that runs the tests
    os.environ.pop("COLUMNS", None)  # the width of a terminal, which pytest-xdist sets
    os.environ.pop("TERM", None)  # what kind of a terminal the tests run in, if in any
    torch.set_flush_denormal(False)  # programs that torch 2.4 compiles switch subnormal numbers off for the process
    yield
    os.environ.pop("PL_GLOBAL_SEED", None)  # of the test's pl.seed_everything: fixtures of other modules come next


@pytest.fixture(scope="session")
def isolated() -> Iterator[Any]:
    """One engine for all tests: to start its child takes seconds."""
    from lightning_fed.engines import Isolated

    engine = Isolated(processes=1, persistent=True)
    yield engine
    engine.close()


@pytest.fixture(params=["sequential", "vectorized", "isolated"])
def engine(request: pytest.FixtureRequest) -> Any:
    """Each engine in turn, or those that a test names: ``parametrize("engine", [...], indirect=True)``."""
    return request.getfixturevalue("isolated") if request.param == "isolated" else request.param


@pytest.fixture
def double() -> Iterator[None]:
    """All numbers of the test are float64, in which two ways to the same result differ by 1e-14 or so.

    In float32 they differ by what the processor's order of summation makes of it, and no tolerance tells that from a
    fault.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
