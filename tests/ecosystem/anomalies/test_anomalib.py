"""anomalib: a network that learns from simulated anomalies, a generative pair with two optimizers, and a student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from page import recipe
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

RECIPE = recipe("anomalib")

from anomalib.data.utils.generators.perlin import PerlinAnomalyGenerator
from anomalib.models.image.draem.torch_model import DiscriminativeSubNetwork, ReconstructiveSubNetwork
from anomalib.models.image.efficient_ad.torch_model import SmallPatchDescriptionNetwork
from contract import is_a_plain_epoch, learns, opens, trainer

from lightning_fed import FederatedDataModule, FederatedModule


def pictures(folder: Path, seed: int, spots: bool, number: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    for n in range(number):
        picture = (120 + 20 * generator.standard_normal((32, 32, 3))).clip(0, 255).astype(np.uint8)
        if spots:
            picture[8:16, 8:16] = 250
        Image.fromarray(picture).save(folder / f"{n}.png")


def plant(folder: Path, which: int = 0, **options: Any) -> Any:
    root = folder / f"plant {which}"
    if not root.exists():
        pictures(root / "normal", which, spots=False, number=15)
        pictures(root / "abnormal", 100 + which, spots=True, number=4)
    return RECIPE.plant(root, **options)


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


class Narrow(SmallPatchDescriptionNetwork):
    """A sixteenth of the width."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 4), nn.Conv2d(8, 16, 4)
        self.conv3, self.conv4 = nn.Conv2d(16, 16, 3), nn.Conv2d(16, channels, 4)


class SmallEfficientAd(RECIPE.PublicEfficientAd):
    """With narrow networks; what two fits draw is the same."""

    def __init__(self, teacher_out_channels: int = 8, **settings: Any) -> None:
        super().__init__(teacher_out_channels=teacher_out_channels, **settings)
        self.model.teacher, self.model.student = Narrow(8).eval(), Narrow(16)

    def on_train_start(self) -> None:
        torch.manual_seed(0)
        super().on_train_start()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        torch.manual_seed(batch_idx)
        return super().training_step(batch, batch_idx)


def published(folder: Path) -> None:
    """What EfficientAD would download: a teacher, in the folder in which it runs, and pictures."""
    teacher = folder / "pre_trained" / "efficientad_pretrained_weights" / "pretrained_teacher_small.pth"
    teacher.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(Narrow(8).state_dict(), teacher)
    pictures(folder / "imagenette" / "all", seed=200, spots=False, number=5)


def draem(folder: Path) -> Any:
    return RECIPE.module(SmallDraem, dtd_dir=folder)


def ganomaly(_: Path) -> Any:
    return RECIPE.module(RECIPE.Ganomaly, n_features=8, latent_vec_size=8)


def efficient_ad(folder: Path) -> Any:
    return RECIPE.module(SmallEfficientAd, imagenet_dir=folder / "imagenette")


class InOrder(RECIPE.Folder):
    """Does not shuffle."""

    def train_dataloader(self) -> Any:
        rows = self.train_data
        return DataLoader(rows, batch_size=self.train_batch_size, collate_fn=rows.collate_fn)


LARGE = {"size": (256, 256), "batch_size": 1}
EVERY = pytest.mark.parametrize(("kind", "options"), [(draem, {}), (ganomaly, {}), (efficient_ad, LARGE)])


@EVERY
def test_one_worker_is_a_plain_trainer(
    kind: Any, options: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(tmp_path)
    monkeypatch.setattr(RECIPE, "Folder", InOrder)
    is_a_plain_epoch(lambda: kind(tmp_path), lambda: plant(tmp_path, **options))


@EVERY
def test_plants_learn_together(kind: Any, options: Any, caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    published(tmp_path)
    workers = {f"plant {n}": plant(tmp_path, n, **options) for n in range(3)}
    fed, run = learns("anomalib", lambda: kind(tmp_path), workers, caplog, rounds=2 if options else 4)
    assert "image_AUROC" in run.callback_metrics
    opens(fed, run, tmp_path, weights_only=False)  # its hyperparameters hold callbacks


def test_a_model_that_reads_data_on_the_server_is_refused_at_the_start(tmp_path: Path) -> None:
    published(tmp_path)
    fed = FederatedModule(RECIPE.module(RECIPE.EfficientAd, imagenet_dir=tmp_path / "imagenette"))
    with pytest.raises(AttributeError, match=r"no 'train_batch_size'; a worker's datamodule is trainer\.datamodule\.w"):
        trainer(num_sanity_val_steps=0).fit(fed, FederatedDataModule({"plant": plant(tmp_path, **LARGE)}))
