"""A callback that is a part of the user's module, and of its hyperparameters, as anomalib has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from helpers import EvaluatedRows, Scalar, trainer
from torch import nn

from lightning_fed import FederatedDataModule, FederatedModule


class Evaluator(nn.Module, pl.Callback):
    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.log("evaluated", 7.0)


class Evaluated(Scalar):
    def __init__(self, evaluator: Evaluator, lr: float = 0.5) -> None:
        super().__init__(lr)
        self.save_hyperparameters()
        self.evaluator = evaluator

    def configure_callbacks(self) -> list[pl.Callback]:
        return [self.evaluator]

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", ((self.x - batch[0]) ** 2).mean())


@pytest.mark.filterwarnings("ignore:Attribute 'evaluator' is an instance of `nn.Module`")
@pytest.mark.parametrize("engine", ["sequential", "isolated"], indirect=True)
def test_it_logs_and_its_checkpoint_holds_nothing_of_the_server(engine: Any, tmp_path: Path) -> None:
    class Unpicklable(pl.Callback):  # of a class that only this function has
        pass

    module = Evaluated(Evaluator())
    run = trainer(max_epochs=2, callbacks=[Unpicklable()])
    run.fit(FederatedModule(module, engine=engine), FederatedDataModule({"bob": EvaluatedRows([4.0])}))
    assert run.callback_metrics["evaluated"] == 7
    path = tmp_path / "federated.ckpt"
    run.save_checkpoint(path)
    assert b"lightning_fed.module" not in path.read_bytes()
    opened = Evaluated.load_from_checkpoint(path, weights_only=False)
    assert torch.equal(opened.x, module.x)
    again = trainer(max_epochs=2)
    again.validate(opened, EvaluatedRows([4.0]), verbose=False)
    assert again.callback_metrics["evaluated"] == 7
