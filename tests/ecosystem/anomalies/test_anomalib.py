"""anomalib: a network that learns from simulated anomalies, and a generative pair with two optimizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from page import recipe
from PIL import Image
from torch.utils.data import DataLoader

RECIPE = recipe("anomalib")

from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork
from contract import is_a_plain_epoch, learns, opens


def pictures(folder: Path, seed: int, spots: bool, number: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for n in range(number):
        picture = (120 + 20 * generator.standard_normal((32, 32, 3))).clip(0, 255).astype(np.uint8)
        if spots:
            picture[8:16, 8:16] = 250
        Image.fromarray(picture).save(folder / f"{n}.png")


def plant(folder: Path, which: int = 0) -> Any:
    root = folder / f"plant {which}"
    if not root.exists():
        pictures(root / "normal", which, spots=False, number=15)
        pictures(root / "abnormal", 100 + which, spots=True, number=4)
    return RECIPE.plant(root)


class SmallDraem(RECIPE.Draem):
    """An eighth of Draem's width, and noise for anomalies: textures need a download and torchvision's reader.

    It simulates the same anomalies in the same steps, so that what two fits draw is the same.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.augmenter = PerlinAnomalyGenerator(blend_factor=(0.1, 1.0))
        self.model.reconstructive_subnetwork = ReconstructiveSubNetwork(base_width=16)
        self.model.discriminative_subnetwork = DiscriminativeSubNetwork(in_channels=6, out_channels=2, base_width=8)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        torch.manual_seed(batch_idx)
        return super().training_step(batch, batch_idx)


def draem(folder: Path) -> Any:
    return RECIPE.module(SmallDraem, dtd_dir=folder)


def ganomaly(_: Path) -> Any:
    return RECIPE.module(RECIPE.Ganomaly, n_features=8, latent_vec_size=8)


class InOrder(RECIPE.Folder):
    """Does not shuffle."""

    def train_dataloader(self) -> Any:
        rows = self.train_data
        return DataLoader(rows, batch_size=4, collate_fn=rows.collate_fn)


@pytest.mark.parametrize("kind", [draem, ganomaly])
def test_one_worker_is_a_plain_trainer(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RECIPE, "Folder", InOrder)
    is_a_plain_epoch(lambda: kind(tmp_path), lambda: plant(tmp_path))


@pytest.mark.parametrize("kind", [draem, ganomaly])
def test_plants_learn_together(kind: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    workers = {f"plant {n}": plant(tmp_path, n) for n in range(3)}
    fed, run = learns("anomalib", lambda: kind(tmp_path), workers, caplog)
    assert "image_AUROC" in run.callback_metrics
    opens(fed, run, tmp_path, weights_only=False)  # its hyperparameters hold callbacks
