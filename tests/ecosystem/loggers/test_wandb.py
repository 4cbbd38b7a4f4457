"""wandb: what a dashboard leaves in a run that is not online."""

from __future__ import annotations

from pathlib import Path

import pytest
from page import engine, recipe

RECIPE = recipe("wandb")


def test_a_run_offline_has_curves_tables_images_and_histograms(caplog: pytest.LogCaptureFixture) -> None:
    import wandb

    RECIPE.run()
    choice, reason = engine("wandb")
    assert f'engine="auto": {choice}, because {reason}' in caplog.text
    wandb.finish()
    (folder,) = Path().glob("wandb/offline-run-*")
    (file,) = folder.glob("*.wandb")
    written = file.read_bytes()  # names stand there as they are
    for name in ("val_loss", "round/coverage", "workers/val_mse/p10", "comm/megabytes_up_total", "workers/val_mse"):
        assert name.encode() in written
    found = {path.relative_to(folder / "files/media").as_posix() for path in folder.glob("files/media/**/*.*")}
    for name in ("images/who/participation", "images/who/partition", "images/who/val_mse_per_worker"):
        assert [path for path in found if path.startswith(name) and path.endswith(".png")]
    for name in ("table/run/settings", "table/run/promise", "table/run/what_leaves"):
        assert [path for path in found if path.startswith(name)]
