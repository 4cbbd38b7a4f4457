"""What all tests share."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
import torch

os.environ.pop("LIGHTNING_FED_PL", None)
sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)  # small tensors: two threads cost more than they bring, and processes share two cores


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
