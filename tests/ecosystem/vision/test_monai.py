"""MONAI: dictionaries of tensors with metadata, cached data sets, transforms that draw, its own metric."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from page import recipe

RECIPE = recipe("monai")

from contract import is_a_plain_epoch, learns, opens, seeded, trainer

from lightning_fed import FederatedDataModule, FederatedModule


def hospital(which: int = 0, augment: bool = False) -> Any:
    """Scans in which what is to be found is bright."""
    generator = torch.Generator().manual_seed(which)
    labels = [torch.zeros(16, 16) for _ in range(8)]
    for n, label in enumerate(labels):
        label[n : n + 6, 4:12] = 1
    return RECIPE.Hospital(
        [{"image": label + 0.3 * torch.randn(16, 16, generator=generator), "label": label} for label in labels], augment
    )


def test_one_worker_is_a_plain_trainer() -> None:
    is_a_plain_epoch(RECIPE.Segmentation, hospital)


def test_hospitals_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"hospital {n}": hospital(n, augment=True) for n in range(3)}
    fed, run = learns("monai", RECIPE.Segmentation, workers, caplog)
    assert {"val_loss", "val_dice", "train_loss"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path)


def test_what_transforms_draw_is_the_same_in_every_run() -> None:
    ends = []
    for cached in (1, 3):
        module = seeded(RECIPE.Segmentation)
        workers = {f"hospital {n}": hospital(n, augment=True) for n in range(3)}
        data = FederatedDataModule(workers, seed=1, cached_workers=cached)
        trainer(max_epochs=2, limit_val_batches=0).fit(FederatedModule(module), data)
        ends.append(module.state_dict())
    torch.testing.assert_close(*ends, rtol=0, atol=0)
