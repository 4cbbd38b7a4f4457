"""Schedulers of the server optimizer."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning.cli import ReduceLROnPlateau
from torch.optim import lr_scheduler

from lightning_fed.server.schedulers import scheduler_config


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def test_a_scheduler_is_stepped_once_a_round() -> None:
    scheduler = lr_scheduler.StepLR(optimizer(), 1)
    assert scheduler_config(scheduler) == {"scheduler": scheduler, "interval": "step"}


def test_one_that_looks_at_a_metric_is_stepped_after_evaluation() -> None:
    scheduler = ReduceLROnPlateau(optimizer(), monitor="val_loss")
    assert scheduler_config(scheduler) == {"scheduler": scheduler, "interval": "epoch", "monitor": "val_loss"}


def test_one_that_does_not_say_which_metric_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match=r"use pytorch_lightning\.cli\.ReduceLROnPlateau"):
        scheduler_config(lr_scheduler.ReduceLROnPlateau(optimizer()))
