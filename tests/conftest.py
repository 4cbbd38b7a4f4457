"""What all tests share."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

os.environ.pop("LIGHTNING_FED_PL", None)
sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # small tensors: two threads cost more than they bring, and processes share two cores


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)


@pytest.fixture
def double() -> Iterator[None]:
    """All numbers of the test are float64, in which two ways to the same result differ by 1e-14 or so.

    In float32 they differ by what the processor's order of summation makes of it, and no tolerance tells that from a
    fault.
    """
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
