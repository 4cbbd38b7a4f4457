"""neuralforecast: its models and its datamodule, without its own fit."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from page import recipe

RECIPE = recipe("neuralforecast")

from contract import is_a_plain_epoch, learns, opens


def frame(which: int = 0) -> pd.DataFrame:
    rows = [
        {"unique_id": f"{which}-{series}", "ds": day, "y": 2 + math.sin(day / 3 + which + series)}
        for series in range(5)
        for day in range(40)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize("kind", [RECIPE.NHITS, RECIPE.MLP])
def test_one_worker_is_a_plain_trainer(kind: Any) -> None:
    """With all windows in every step nothing is drawn."""
    settings = {"windows_batch_size": None}
    is_a_plain_epoch(lambda: RECIPE.module(kind, **settings), lambda: RECIPE.region(frame(), shuffle=False))


@pytest.mark.parametrize("kind", [RECIPE.NHITS, RECIPE.MLP])
def test_regions_learn_together(kind: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"region {n}": RECIPE.region(frame(n)) for n in range(4)}
    settings = {"windows_batch_size": 64}
    fed, run = learns("neuralforecast", lambda: RECIPE.module(kind, **settings), workers, caplog, rounds=5)
    assert {"train_loss", "ptl/val_loss"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path, weights_only=False)  # its hyperparameters hold losses
