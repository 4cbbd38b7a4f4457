"""darts, which builds module, data and Trainer by itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from darts import TimeSeries
from page import recipe

RECIPE = recipe("darts")

from contract import is_a_plain_epoch, learns, opens


def series(which: int = 0) -> TimeSeries:
    return TimeSeries.from_values(np.array([math.sin(day / 3 + which) for day in range(50)], dtype=np.float32))


def module() -> Any:
    return RECIPE.prepared(RECIPE.forecaster(), series())[0]


def plant(which: int = 0, **options: Any) -> Any:
    return RECIPE.prepared(RECIPE.forecaster(), series(which), **options)[1]


def test_one_worker_is_a_plain_trainer() -> None:
    is_a_plain_epoch(module, lambda: plant(dataloader_kwargs={"shuffle": False}))


def test_plants_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    model = RECIPE.forecaster()
    wrapped = RECIPE.prepared(model, series())[0]
    before = model.predict(2, series=series(1)).values()
    fed, run = learns("darts", lambda: wrapped, {f"plant {n}": plant(n) for n in range(4)}, caplog)
    assert {"train_loss", "val_loss"} <= run.callback_metrics.keys()
    assert not np.allclose(model.predict(2, series=series(1)).values(), before), "darts forecasts by the global model"
    opens(fed, run, tmp_path, weights_only=False)  # its hyperparameters hold classes
