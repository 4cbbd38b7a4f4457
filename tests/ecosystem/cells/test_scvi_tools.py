"""scvi-tools: a variational autoencoder of cells, with the library's own loaders and metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import torch
from page import recipe

RECIPE = recipe("scvi-tools")

from contract import is_a_plain_epoch, learns, opens, trainer
from lightning.pytorch.cli import ReduceLROnPlateau

from lightning_fed import FederatedDataModule, FederatedModule


def cells(which: int = 0, n: int = 80) -> anndata.AnnData:
    generator = np.random.default_rng(which)
    rates = np.where(np.arange(20) % 2, 8.0, 1.0)[None] * generator.gamma(2.0, 0.5, size=(n, 1))
    return anndata.AnnData(generator.poisson(rates).astype(np.float32))


class Seeded(RECIPE.TrainingPlan):
    """Samples alike in the same steps, so that what two fits draw is the same."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        torch.manual_seed(batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        torch.manual_seed(batch_idx)
        return super().validation_step(batch, batch_idx)


class InOrder(RECIPE.DataSplitter):
    """Does not shuffle."""

    def train_dataloader(self) -> Any:
        return self.data_loader_cls(self.adata_manager, indices=np.sort(self.train_idx), batch_size=32)


def in_order() -> Any:
    return InOrder(RECIPE.laboratory(cells()).adata_manager, train_size=0.8, batch_size=32)


def test_one_worker_is_a_plain_trainer() -> None:
    is_a_plain_epoch(lambda: Seeded(RECIPE.network(cells())), in_order)


def test_laboratories_learn_together(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"laboratory {n}": RECIPE.laboratory(cells(n)) for n in range(4)}
    fed, run = learns("scvi-tools", lambda: RECIPE.module(cells()), workers, caplog, rounds=6)
    assert {"validation_loss", "elbo_validation", "train_loss"} <= run.callback_metrics.keys()
    opens(fed, run, tmp_path, module=RECIPE.network(cells()))


def test_the_rate_that_follows_the_validation_is_the_servers(caplog: pytest.LogCaptureFixture) -> None:
    workers = {f"laboratory {n}": RECIPE.laboratory(cells(n)) for n in range(4)}
    plateau = {"reduce_lr_on_plateau": True}
    with pytest.warns(UserWarning, match="a ReduceLROnPlateau on 'elbo_validation', .* the rate is held there"):
        trainer(max_epochs=2).fit(FederatedModule(RECIPE.module(cells(), **plateau)), FederatedDataModule(workers))
    _, run = learns(
        "scvi-tools",
        lambda: RECIPE.module(cells()),
        workers,
        caplog,
        rounds=6,
        server_lr_scheduler=lambda optimizer: ReduceLROnPlateau(
            optimizer, monitor="elbo_validation", patience=0, threshold=1e9
        ),
    )
    assert run.optimizers[0].param_groups[0]["lr"] < 1
