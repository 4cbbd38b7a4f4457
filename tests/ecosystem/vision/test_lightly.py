"""lightly: views of pictures, teachers that follow slowly, a memory bank, gradients that are cancelled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from page import recipe
from torch import Tensor

RECIPE = recipe("lightly")

from contract import is_a_plain_epoch, learns, opens

KINDS = [RECIPE.SimCLR, RECIPE.BYOL, RECIPE.MoCo, RECIPE.DINO]


def views(picture: Tensor) -> list[Tensor]:
    """Two views of which nothing is drawn."""
    return [picture, 0.8 * picture.flip(-1) + 0.1]


def drawn_views(picture: Tensor) -> list[Tensor]:
    return [picture + 0.1 * torch.randn_like(picture) for _ in range(2)]


def camera(which: int = 0, transform: Any = views, shuffle: bool = False) -> Any:
    generator = torch.Generator().manual_seed(which)
    pictures = torch.rand(24, 3, 1, 1, generator=generator) + 0.2 * torch.randn(24, 3, 8, 8, generator=generator)
    return RECIPE.Camera(pictures, transform, shuffle)


@pytest.mark.parametrize("kind", KINDS)
def test_one_worker_is_a_plain_trainer(kind: Any) -> None:
    is_a_plain_epoch(kind, camera)


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_learn_together(kind: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"camera {n}": camera(n, drawn_views, shuffle=True) for n in range(4)}
    fed, run = learns("lightly", kind, workers, caplog, rounds=6)
    assert "val_alike" in run.callback_metrics
    opens(fed, run, tmp_path)
