"""mlflow: what a dashboard leaves in a store of files."""

from __future__ import annotations

from pathlib import Path

import pytest
from page import engine, recipe

RECIPE = recipe("mlflow")


def test_a_run_has_curves_texts_and_figures(caplog: pytest.LogCaptureFixture) -> None:
    from mlflow.tracking import MlflowClient

    _, trainer = RECIPE.run()
    choice, reason = engine("mlflow")
    assert f'engine="auto": {choice}, because {reason}' in caplog.text
    client, run = MlflowClient(trainer.logger._tracking_uri), trainer.logger.run_id
    metrics = client.get_run(run).data.metrics
    assert {"val_loss", "round/coverage", "workers/val_mse/p10", "comm/megabytes_up_total"} <= metrics.keys()
    files = {file.path for folder in ("run", "who") for file in client.list_artifacts(run, folder)}
    assert {"run/settings.md", "run/promise.md", "run/what_leaves.md"} <= files
    (figure,) = client.list_artifacts(run, "who/participation")
    assert Path(client.download_artifacts(run, figure.path, ".")).read_bytes().startswith(b"\x89PNG")
    assert "Nothing was promised" in Path(client.download_artifacts(run, "run/promise.md", ".")).read_text()
