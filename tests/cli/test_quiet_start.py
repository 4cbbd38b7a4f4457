"""Lines of Lightning's that say nothing of the run are left out of a command's output, and no others."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import pytorch_lightning as pl
from lightning_utilities.core.rank_zero import rank_zero_info

from lightning_fed.cli import FederatedCLI
from lightning_fed.cli.quiet import quiet


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    logging.getLogger("pytorch_lightning").setLevel(logging.INFO)
    caplog.set_level(logging.INFO)
    return caplog


def test_only_what_says_nothing_is_left_out(heard: pytest.LogCaptureFixture) -> None:
    left_out = ("💡 Tip: For seamless cloud logging", "TPU available: False, using: 0 TPU cores")
    said = ("GPU available: False, used: False", "TPU available: True, using: 8 TPU cores", "a 💡 Tip: of mine")
    with quiet():
        for text in (*left_out, *said):
            rank_zero_info(text)
        logging.getLogger("users.own").info(left_out[0])
    rank_zero_info(left_out[0])
    assert [record.getMessage() for record in heard.records] == [*said, left_out[0], left_out[0]]


def test_a_toy_run_says_little_on_standard_error_and_no_control_characters_in_files(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "lightning_fed", "fit", "-c", "toy.yaml"]
    command += ["--trainer.max_epochs=200", "--trainer.check_val_every_n_epoch=50"]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=True)
    lines = done.stderr.decode().splitlines()
    assert len(lines) <= 5, lines
    assert any(line.startswith('engine="auto": ') for line in lines)
    assert any(re.search(r"^seeds: 0 .*; LinearRegression has 3 parameters$", line) for line in lines)
    out = done.stdout.decode().splitlines()
    assert len(out) < 10
    assert not {b"\r", b"\x1b"} & {bytes([byte]) for byte in done.stdout + done.stderr}
    assert sum(line.startswith("round 1/200 · ") for line in out) == 1
    assert out[-1].startswith("200 rounds in ")
    assert "logs in logs/" in out[-1]
    assert "checkpoint logs/" in out[-1]


@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize(
    ("options", "count"),
    [([], 0), (["--trainer.enable_model_summary=true"], 1), (["--trainer.callbacks=ModelSummary"], 1)],
)
def test_the_model_is_summarized_on_demand(
    options: list[str], count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    quick = ["--trainer.fast_dev_run=true", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    callbacks = FederatedCLI(["fit", "-c", "toy", *quick, *options]).trainer.callbacks
    assert sum(isinstance(callback, pl.callbacks.ModelSummary) for callback in callbacks) == count
