"""The command line, as a user types it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lightning_fed.models import LinearRegression

ROOT = Path(__file__).parent.parent
TOY = str(ROOT / "configs" / "toy.yaml")
DIGITS = str(ROOT / "configs" / "digits.yaml")
QUICK = ("--trainer.max_epochs=3", "--trainer.accelerator=cpu", "--trainer.enable_model_summary=false")


def cli(folder: Path, *arguments: str, status: int = 0) -> str:
    """Run ``lightning-fed`` in a folder; give what it printed, to both streams."""
    command = [sys.executable, "-m", "lightning_fed", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    output = done.stdout + done.stderr
    assert done.returncode == status, output
    return output


def checkpoint(folder: Path) -> Path:
    (path,) = (folder / "logs").glob("**/*.ckpt")
    return path


def test_fit_and_resume(tmp_path: Path) -> None:
    output = cli(tmp_path, "fit", "-c", TOY, *QUICK)
    assert re.search(r"round 1/3 .*loss ", output), "rounds are counted, with the loss"
    assert "3 rounds in " in output
    path = checkpoint(tmp_path)
    assert list((tmp_path / "logs").glob("**/events.out.tfevents.*")), "TensorBoard is the default logger"
    saved = LinearRegression.load_from_checkpoint(path)  # opens in the user's plain module, hyperparameters included
    assert saved.hparams["lr"] == 0.1
    resumed = cli(tmp_path, "fit", "-c", TOY, *QUICK, "--trainer.max_epochs=5", "--ckpt_path", str(path))
    assert "Restored all states" in resumed
    longer = max((tmp_path / "logs").glob("**/*.ckpt"), key=lambda p: p.stat().st_mtime)
    assert torch.load(longer, weights_only=True)["global_step"] == 5


@pytest.mark.slow
def test_validate_test_and_predict(tmp_path: Path) -> None:
    """In processes of their own; test_lightning_cli.py has them in this one."""
    cli(tmp_path, "fit", "-c", TOY, *QUICK)
    path = str(checkpoint(tmp_path))
    for command, metric in (("validate", "val_mse"), ("test", "test_mse")):
        assert metric in cli(tmp_path, command, "-c", TOY, "--ckpt_path", path, *QUICK)
    cli(tmp_path, "predict", "-c", TOY, "--ckpt_path", path, *QUICK)


@pytest.mark.slow
def test_the_config_wins_over_the_checkpoint_and_says_so(tmp_path: Path) -> None:
    cli(tmp_path, "fit", "-c", TOY, *QUICK)
    path = str(checkpoint(tmp_path))
    output = cli(tmp_path, "validate", "-c", TOY, *QUICK, "--model.module.init_args.lr=0.3", "--ckpt_path", path)
    assert "model.module.init_args.lr is 0.3, but" in output
    assert "was written with 0.1" in output


@pytest.mark.slow
def test_a_bundled_config_is_found_by_its_name_and_a_second_run_works(tmp_path: Path) -> None:
    for _ in range(2):
        cli(tmp_path, "fit", "-c", "configs/toy.yaml", *QUICK, "--trainer.logger.init_args.version=same")


@pytest.mark.slow
def test_a_worker_can_be_added_on_the_command_line(tmp_path: Path) -> None:
    carol = "--data.workers.carol=lightning_fed.datasets.ToyDataModule"
    output = cli(tmp_path, "fit", "-c", TOY, *QUICK, carol, "--print_config")
    assert "carol:" in output
    assert "bob:" in output


@pytest.mark.slow
def test_cyclic_and_another_server_optimizer_by_options(tmp_path: Path) -> None:
    options = ("--model.algorithm=Cyclic", "--model.server_optimizer=Adam", "--model.server_optimizer.lr=0.01")
    cli(tmp_path, "fit", "-c", TOY, *QUICK, *options)


@pytest.mark.slow
def test_an_algorithm_and_an_aggregator_with_arguments(tmp_path: Path) -> None:
    options = ("--model.algorithm=FedProx", "--model.algorithm.mu=0.1", "--model.aggregator=TrimmedMean")
    cli(tmp_path, "fit", "-c", TOY, *QUICK, *options, "--model.aggregator.trim=0")
    cli(tmp_path, "fit", "-c", TOY, *QUICK, "--model.server_optimizer=lightning_fed.optim.Yogi")


@pytest.mark.slow
def test_a_promise_of_privacy_by_config(tmp_path: Path) -> None:
    output = cli(tmp_path, "fit", "-c", "configs/private.yaml", "--trainer.max_steps=2", "--trainer.accelerator=cpu")
    assert "epsilon=" in output
    assert re.search(r"^round 1/20? .* · ε [\d.]+$", output, re.M)
    assert re.search(r"^2 rounds in .* · epsilon=[\d.]+ at delta=1e-05 · logs in ", output, re.M)


@pytest.mark.slow
def test_digits_by_partition(tmp_path: Path) -> None:
    cli(tmp_path, "fit", "-c", DIGITS, "--trainer.max_steps=2", "--trainer.accelerator=cpu")


def test_a_wrong_config_ends_a_command_in_a_few_lines(tmp_path: Path) -> None:
    """In a process of its own; what else can be wrong, test_wrong_commands.py tries in this one."""
    text = Path(TOY).read_text()
    assert "rows: [2, 3]" in text
    (tmp_path / "wrong.yaml").write_text(text.replace("rows: [2, 3]", "rowz: [2, 3]", 1))
    said = cli(tmp_path, "fit", "-c", "wrong.yaml", *QUICK, status=2)
    assert re.search(r"data\.workers\.alice.*rowz", said)
    assert "usage:" not in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_help_reads_well(tmp_path: Path) -> None:
    output = cli(tmp_path, "--help")
    for command in ("fit", "validate", "test", "predict"):
        assert re.search(rf"^\s+{command}\s+\S", output, re.M)
    fit = cli(tmp_path, "fit", "--help")
    assert fit.startswith("usage: lightning-fed fit [-c CONFIG]")
    for words in ("The computation of a round", "Every worker's data by name", "Passes over a worker's training data"):
        assert words in re.sub(r"\s+", " ", fit)


@pytest.mark.slow
def test_what_a_constructor_refuses_is_said_in_a_line(tmp_path: Path) -> None:
    output = cli(tmp_path, "fit", "-c", TOY, *QUICK, "--model.algorithm=FedDyn", "--model.algorithm.alpha=0", status=2)
    assert "error: alpha=0.0 must be positive" in output
    assert "Traceback" not in output
    assert "NoneType" not in output
