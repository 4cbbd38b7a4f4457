"""segmentation-models-pytorch: its own example, which keeps outputs until an epoch ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from page import recipe
from torch.utils.data import TensorDataset

RECIPE = recipe("segmentation-models-pytorch")

from contract import is_a_plain_epoch, learns, opens


def farm(which: int = 0, shuffle: bool = False) -> Any:
    generator = torch.Generator().manual_seed(which)
    masks = (torch.rand(12, 1, 4, 4, generator=generator) > 0.5).float().repeat_interleave(4, 2).repeat_interleave(4, 3)
    pictures = masks + 0.2 * torch.randn(12, 3, 16, 16, generator=generator)
    return RECIPE.Farm(TensorDataset(pictures[:8], masks[:8]), TensorDataset(pictures[8:], masks[8:]), shuffle)


def test_one_worker_is_a_plain_trainer() -> None:
    is_a_plain_epoch(RECIPE.Segmentation, farm)


def test_farms_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"farm {n}": farm(n, shuffle=True) for n in range(3)}
    fed, run = learns("segmentation-models-pytorch", RECIPE.Segmentation, workers, caplog, rounds=5)
    assert {"valid_loss", "valid_dataset_iou", "train_dataset_iou"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path)
