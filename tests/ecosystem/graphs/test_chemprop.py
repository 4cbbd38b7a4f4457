"""chemprop: message passing over molecules, in batches of its own kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page import recipe

RECIPE = recipe("chemprop")

from contract import is_a_plain_epoch, learns, opens

CHAINS = [f"C{'C' * n}{end}" for end in ("O", "N", "C(=O)O") for n in range(5)]


def laboratory(which: int, shuffle: bool = False) -> Any:
    """Molecules whose target is the number of their heavy atoms."""
    return RECIPE.Laboratory([(smiles, len(smiles) - 2.0) for smiles in CHAINS[which % 3 :]], shuffle)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_one_worker_is_a_plain_trainer(batch_norm: bool) -> None:
    is_a_plain_epoch(lambda: RECIPE.module(batch_norm), lambda: laboratory(0))


def test_one_worker_is_a_plain_trainer_that_counts_steps() -> None:
    # Where a Trainer goes by steps alone, chemprop's rate sinks over 100 times the two epochs in which it rises.
    length = {"max_steps": 5, "max_epochs": 2 + 200}
    is_a_plain_epoch(RECIPE.module, lambda: laboratory(0), local_steps=5, length=length)


@pytest.mark.parametrize("how", [{}, {"local_steps": 3}])
def test_laboratories_learn_together(how: dict[str, Any], caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"laboratory {n}": laboratory(n, shuffle=True) for n in range(4)}
    fed, run = learns("chemprop", RECIPE.module, workers, caplog, **how)
    assert {"val_loss", "val/rmse", "train_loss"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path)
