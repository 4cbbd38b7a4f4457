"""pytorch-forecasting with its default settings, of which ReduceLROnPlateau is one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from page import recipe

RECIPE = recipe("pytorch-forecasting")

from contract import is_a_plain_epoch, learns, opens

KINDS = [RECIPE.NHiTS, RECIPE.DeepAR, RECIPE.TemporalFusionTransformer]


def frame(which: int = 0) -> pd.DataFrame:
    days = range(30)
    sold = [10 + 5 * math.sin(day / 3 + which) + day % (2 + which) for day in days]
    return pd.DataFrame({"day": days, "shop": f"shop {which}", "sold": sold})


@pytest.mark.filterwarnings("ignore:.*ReduceLROnPlateau.*strict=False")
@pytest.mark.parametrize("kind", KINDS)
def test_one_worker_is_a_plain_trainer(kind: Any) -> None:
    still = {"dropout": 0.0}
    is_a_plain_epoch(lambda: RECIPE.module(kind, frame(), **still), lambda: RECIPE.Shop(frame(), shuffle=False))


@pytest.mark.parametrize("kind", KINDS)
def test_shops_learn_together(kind: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"shop {n}": RECIPE.Shop(frame(n)) for n in range(4)}
    fed, run = learns("pytorch-forecasting", lambda: RECIPE.module(kind, frame()), workers, caplog, rounds=6)
    assert {"val_loss", "val_SMAPE", "val_RMSE"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path)
