"""timm: a small vision transformer, with and without stochastic depth."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from page import recipe
from torch.utils.data import DataLoader, TensorDataset

RECIPE = recipe("timm")

from contract import is_a_plain_epoch, learns, opens, seeded, trainer

from lightning_fed import FederatedDataModule, FederatedModule
from lightning_fed._lightning import pl


class Album(pl.LightningDataModule):
    """Pictures that are brighter on one side."""

    def __init__(self, which: int = 0, shuffle: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(which)
        labels = torch.arange(24) % 2
        pictures = torch.randn(24, 3, 16, 16, generator=generator)
        pictures[labels == 1, :, :, :8] += 1.5
        self.rows, self.shuffle = TensorDataset(pictures, labels), shuffle

    def train_dataloader(self) -> DataLoader[object]:
        return DataLoader(self.rows, batch_size=6, shuffle=self.shuffle)

    def val_dataloader(self) -> DataLoader[object]:
        return DataLoader(self.rows, batch_size=6)


def test_one_worker_is_a_plain_trainer() -> None:
    is_a_plain_epoch(lambda: RECIPE.vit(drop_path_rate=0.0), Album)


def test_albums_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"album {n}": Album(n, shuffle=True) for n in range(4)}
    fed, run = learns("timm", RECIPE.vit, workers, caplog, rounds=5)
    assert {"val_loss", "val_acc"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path)


def test_both_engines_drop_the_same_paths() -> None:
    ends = []
    for engine in ("sequential", "vectorized"):
        module = seeded(RECIPE.vit)
        data = FederatedDataModule({f"album {n}": Album(n, shuffle=True) for n in range(4)})
        trainer(max_epochs=1, limit_val_batches=0).fit(FederatedModule(module, engine=engine), data)
        ends.append(module.state_dict())
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)
